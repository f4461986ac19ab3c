"""The CPU core against the eager reference: every operation, every architecture, any batching."""

import numpy as np
import pytest
import torch

from localllm.evaluate.synthetic import ARCHITECTURES, random_model
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.ops import eager
from localllm.ops.native import lower
from localllm.ops.spec import Attention, Experts, Rope
from localllm.ops.tracer import record, trace
from tests.ops.building import definition, weight
from tests.parity.peer import mean_divergence

native = pytest.importorskip("localllm._native")

PAGE = 32
DIM = 16


class Runner:
    """A lowered program with a cache whose pages stand in a shuffled order."""

    def __init__(self, program, *, layers=1, kv_heads=1, head_dim=DIM, kind="f16", sequences=1):
        self.program, _ = lower(program, 2)
        pages = 24
        self.cache = native.Cache(layers, kv_heads, head_dim, pages, PAGE, kind)
        order = np.random.default_rng(0).permutation(pages).astype(np.int32)
        self.tables = order.reshape(sequences, -1)
        self.past = np.zeros(sequences, np.int32)

    def step(self, tokens, lengths=None, rows=None):
        lengths = np.array([len(tokens)] if lengths is None else lengths, np.int32)
        rows = np.arange(len(tokens)) if rows is None else rows
        results = self.program.step(
            self.cache,
            np.array(tokens, np.int32),
            lengths,
            self.past,
            self.tables,
            np.array(rows, np.int32),
        )
        self.past = self.past + lengths
        return results


def model_runner(model, **options):
    c = model.config
    shape = {"layers": c.layers, "kv_heads": c.kv_heads, "head_dim": c.head_dim}
    return Runner(trace(model), **shape, **options)


def body_of(body, width=32):
    """A definition: embed, the body, its result."""

    def forward(ops):
        ops.output("x", ops.select(body(ops, ops.embed(weight("table", 40, width)))))

    return definition(forward)


def project(ops, x, name, out):
    return ops.linear(x, weight(name, out, 32), weight(f"{name}.bias", out))


def attend(window=None, softcap=None):
    spec = Attention(0, 4, 2, DIM, 0.25, window, softcap)

    def body(ops, x):
        q, k, v = project(ops, x, "q", 64), project(ops, x, "k", 32), project(ops, x, "v", 32)
        return ops.attention(q, k, v, spec)

    return body


def rope(interleaved, dims, scale=1.0):
    turn = Rope(10.0 ** -np.linspace(0, 3, dims // 2).astype(np.float32), interleaved, scale)
    return lambda ops, x: ops.rope(ops.norm(x, weight("n", 32), 1e-5), DIM, turn)


def gated(kind):
    return lambda ops, x: ops.gated_act(project(ops, x, "a", 48), project(ops, x, "b", 48), kind)


def moe(used, normalise, scale, kind):
    experts = Experts(
        weight("router", 6, 32, gain=3.0),
        weight("gate", 6, 48, 32),
        weight("up", 6, 48, 32),
        weight("down", 6, 32, 48),
        used,
        normalise,
        scale,
        kind,
    )
    return lambda ops, x: ops.moe(x, experts)


OPERATIONS = {
    "embed": lambda ops, x: x,
    "embed scaled": lambda ops, x: ops.embed(weight("table", 40, 32), 5.5),
    "norm": lambda ops, x: ops.norm(x, weight("n", 32), 0.1),
    "norm of groups": lambda ops, x: ops.norm(x, weight("n", 8), 1e-6, 8),
    "linear": lambda ops, x: ops.linear(x, weight("w", 7, 32)),
    "linear with bias": lambda ops, x: project(ops, x, "w", 40),
    "linear of rows": lambda ops, x: ops.linear(
        x, weight("w", 40, 32).rows(3, 21), weight("b", 40).rows(3, 21)
    ),
    "linear onto a residual": lambda ops, x: ops.add(
        x, project(ops, ops.norm(x, weight("n", 32), 1e-5), "w", 32)
    ),
    "rope of neighbours": rope(True, DIM),
    "rope of halves": rope(False, DIM),
    "rope of a part, scaled": rope(False, 6, 1.3),
    "rope of neighbours of a part": rope(True, 6),
    "attention": attend(),
    "attention in a window": attend(window=5),
    "attention with softcap": attend(softcap=1.5),
    "gated silu": gated("silu"),
    "gated gelu": gated("gelu"),
    "add": lambda ops, x: ops.add(x, ops.norm(x, weight("n", 32), 1e-5)),
    "softcap": lambda ops, x: ops.softcap(x, 0.3),
    "experts": moe(2, True, 1.0, "silu"),
    "experts not normalised": moe(3, False, 2.5, "gelu"),
    "one expert": moe(1, True, 1.0, "silu"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name):
    forward = body_of(OPERATIONS[name])
    tokens = np.random.default_rng(2).integers(0, 40, 37)
    expected = eager.run(forward, torch.tensor(tokens))["x"].numpy()
    runner = Runner(trace(forward), kv_heads=2)
    found = runner.step(tokens)["x"]
    tolerance = 2e-3 if "attention" in name else 2e-5  # keys and values are cached in half
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_selected_rows_come_in_the_order_asked_for():
    forward = body_of(lambda ops, x: project(ops, x, "w", 40))
    runner = Runner(trace(forward))
    whole = runner.step(range(20))["x"]
    some = runner.step(range(20), rows=[13, 2, 2])["x"]
    np.testing.assert_allclose(some, whole[[13, 2, 2]], rtol=1e-5, atol=1e-5)
    assert runner.step(range(20), rows=[])["x"].shape == (0, 40)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models by (architecture, weight type), made once."""
    folder = tmp_path_factory.mktemp("models")
    made = {}

    def get(arch, weight_type="F32"):
        if (arch, weight_type) not in made:
            path = random_model(folder / f"{arch}-{weight_type}.gguf", arch, weight_type, experts=4)
            made[arch, weight_type] = load_definition(GGUFFile.open(path))
        return made[arch, weight_type]

    return get


# keys and values are cached in half; under quantised weights activations are rounded to 8 bits,
# which costs llama.cpp as much (and may send a token to another expert)
FLOAT_KL, QUANTISED_KL, QUANTISED_EXPERTS_KL = 2e-6, 2e-3, 4e-2


@pytest.mark.parametrize("weight_type", ["F32", "F16", "Q8_0", "Q4_K_M"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_model(models, arch, weight_type):
    model = models(arch, weight_type)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab, 64)
    expected = eager.run(model, torch.tensor(tokens))
    found = model_runner(model).step(tokens)
    bound = QUANTISED_EXPERTS_KL if model.config.experts else QUANTISED_KL
    if weight_type.startswith("F"):
        bound = FLOAT_KL
    assert mean_divergence(expected["logits"].numpy(), found["logits"]) <= bound
    assert found["hidden"].shape == (64, model.config.width)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_chunks_and_batches_equal_one_sequence(models, arch):
    model = models(arch)
    tokens = np.random.default_rng(4).integers(0, model.config.vocab, 100)
    expected = eager.run(model, torch.tensor(tokens))["logits"].numpy()
    runner = model_runner(model, sequences=2)
    # two sequences of the same tokens: chunks of one stand beside single steps of the other
    found = {0: [], 1: []}
    for ends in ((40, 3), (41, 33), (73, 34), (74, 99), (100, 100)):
        begins = runner.past.tolist()
        parts = [tokens[begin:end] for begin, end in zip(begins, ends, strict=True)]
        logits = runner.step(np.concatenate(parts), [len(part) for part in parts])["logits"]
        found[0].append(logits[: len(parts[0])])
        found[1].append(logits[len(parts[0]) :])
    for sequence in (0, 1):
        assert mean_divergence(expected, np.concatenate(found[sequence])) <= FLOAT_KL


def test_int8_cache_is_close(models):
    model = models("qwen3")
    tokens = np.random.default_rng(1).integers(0, model.config.vocab, 128)
    expected = eager.run(model, torch.tensor(tokens))["logits"].numpy()
    found = model_runner(model, kind="int8").step(tokens)["logits"]
    assert mean_divergence(expected, found) <= 1e-3


def test_a_program_that_was_not_allocated_is_refused():
    forward = body_of(rope(True, DIM))
    with pytest.raises(ValueError, match="in place only"):
        lower(record(forward), 1)
