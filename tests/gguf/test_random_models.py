"""The generator of the parity tests: well-formed, of the right deviation, loadable elsewhere."""

import numpy as np
import pytest

from localllm.evaluate.synthetic import ARCHITECTURES, random_model
from localllm.gguf import GGUFFile, dequantize
from localllm.gguf.types import RUNNABLE_TYPES

VARIANTS = [
    *((arch, "F32", {}) for arch in ARCHITECTURES),
    *((arch, "Q4_K_M", {}) for arch in ARCHITECTURES),
    ("llama", "F32", {"rope_factors": True}),
    ("llama", "F32", {"tied": True}),
    ("phi3", "F32", {"rope_factors": True}),
    ("gemma3", "Q4_K_M", {"layers": 8}),
    *(("llama", quant.name, {}) for quant in RUNNABLE_TYPES),
]


@pytest.mark.parametrize("quant", RUNNABLE_TYPES, ids=str)
def test_weights_have_mean_0_and_the_wanted_deviation(tmp_path, quant):
    file = GGUFFile.open(random_model(tmp_path / "m.gguf", "llama", quant.name))
    for name in ("blk.1.attn_v.weight", "blk.0.ffn_down.weight", "output.weight"):
        tensor = file.tensors[name]
        assert tensor.type == quant
        values = dequantize(tensor.data, tensor.type, tensor.shape)
        wanted = tensor.shape[-1] ** -0.5
        assert abs(values.mean()) < 0.05 * wanted
        assert values.std() == pytest.approx(wanted, rel=0.06)


def test_the_same_seed_gives_the_same_file(tmp_path):
    first, again, other = (
        random_model(tmp_path / f"{index}.gguf", "qwen3", "Q4_K_M", seed=seed).read_bytes()
        for index, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first != other


def test_types_by_name_pattern(tmp_path):
    types = {"*.attn_v.weight": "Q6_K", "blk.*": "Q4_0"}
    file = GGUFFile.open(random_model(tmp_path / "m.gguf", "qwen3moe", types))
    found = {name: tensor.type.name for name, tensor in file.tensors.items()}
    assert found["blk.0.attn_v.weight"] == "Q6_K"
    assert found["blk.0.ffn_down_exps.weight"] == "Q4_0"
    assert found["blk.0.ffn_gate_inp.weight"] == found["output.weight"] == "F32"
    assert found["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.peer
@pytest.mark.parametrize(("arch", "weight_type", "options"), VARIANTS)
def test_llama_cpp_runs_them(tmp_path, arch, weight_type, options):
    llama_cpp = pytest.importorskip("llama_cpp")
    path = random_model(tmp_path / "m.gguf", arch, weight_type, **options)
    model = llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, logits_all=True, verbose=False)
    model.eval(np.random.default_rng(0).integers(3, 500, 96).tolist())
    logits = np.array(model.scores[:96])
    model.close()
    assert np.isfinite(logits).all()
    assert 0.8 < logits.std() < 3
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    assert likely.max(axis=1).mean() < 0.6
