"""BERT: the eager reference and the core against transformers in float32, and what is refused."""

import numpy as np
import pytest
import torch

from localllm.engine.batch import Batch
from localllm.engine.runner import NativeRunner
from localllm.errors import ModelFileError
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile, TensorInfo, quant_type
from localllm.models import load_definition
from localllm.ops import eager
from localllm.ops.tracer import trace
from tests.models.encoders import (
    CONTEXT,
    EPS,
    FFN,
    HEADS,
    LAYERS,
    SEGMENTS,
    WIDTH,
    metadata,
    random_bert,
    tensors_of,
)
from tests.models.memory import changed, memory_file

SHAPES = {
    "odd": {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "ffn": FFN},
    "minilm": {"layers": 2, "width": 384, "heads": 12, "ffn": 1536},
    "bge": {"layers": 2, "width": 768, "heads": 12, "ffn": 3072},
    "one head": {"layers": 1, "width": 80, "heads": 1, "ffn": 33},
}
LENGTHS = (1, 2, 17, 95, 8, 33)


def hidden_of(model, texts, threads=2):
    """The hidden states of texts in one step of the core: one array a text."""
    pytest.importorskip("localllm._native")
    runner = NativeRunner(model, pages=1, page_size=32, kv_type="f16", threads=threads)
    lengths = np.array([len(text) for text in texts], np.int32)
    tokens = np.concatenate(texts).astype(np.int32)
    batch = Batch(
        tokens,
        lengths,
        np.zeros(len(texts), np.int32),
        np.zeros((len(texts), 0), np.int32),
        np.arange(len(tokens), dtype=np.int32),
    )
    return np.split(runner.step(batch, "hidden"), np.cumsum(lengths)[:-1])


def texts_of(vocab, lengths=LENGTHS):
    random = np.random.default_rng(2)
    return [random.integers(0, vocab, length) for length in lengths]


def worst(found, expected):
    """The largest error, in parts of the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.peer
@pytest.mark.parametrize("name", SHAPES)
def test_both_are_transformers(name):
    transformers = pytest.importorskip("transformers", minversion="5.0")
    shape = SHAPES[name]
    config = transformers.BertConfig(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["width"],
        num_attention_heads=shape["heads"],
        intermediate_size=shape["ffn"],
        vocab_size=128,
        max_position_embeddings=CONTEXT,
        type_vocab_size=SEGMENTS,
        layer_norm_eps=EPS,
        attn_implementation="eager",
    )
    peer = transformers.BertModel(config).float().eval()
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, value in peer.named_parameters():
            value.normal_(0, 2 * value.shape[-1] ** -0.5, generator=random)
            if key.endswith("LayerNorm.weight"):
                value.add_(1)
    keys = metadata(**shape) | {"bert.vocab_size": 128}
    model = load_definition(memory_file(keys, tensors_of(peer)))
    texts = texts_of(128)
    with torch.no_grad():
        expected = [peer(torch.tensor(text)[None]).last_hidden_state[0].numpy() for text in texts]
    reference = eager.run(model, torch.tensor(np.concatenate(texts)), lengths=LENGTHS)["hidden"]
    found = np.concatenate(hidden_of(model, texts))
    expected = np.concatenate(expected)
    errors = worst(reference.numpy(), expected), worst(found, expected)
    print(name, "max relative error of the reference and of the core", errors)
    assert max(errors) <= 1e-4


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return GGUFFile.open(random_bert(tmp_path_factory.mktemp("models") / "bert.gguf"))


def test_a_text_sees_itself_alone(file):
    model = load_definition(file)
    texts = texts_of(model.config.vocab)
    together = hidden_of(model, texts)
    for text, found in zip(texts, together, strict=True):
        np.testing.assert_array_equal(hidden_of(model, [text], threads=1)[0], found)
    other = texts[2].copy()
    other[-1] = (other[-1] + 1) % model.config.vocab
    (changed_text,) = hidden_of(model, [other])
    assert (changed_text[0] != together[2][0]).any(), "the first token does not see the last"


def test_a_program_folds_what_it_can(file):
    listing = str(trace(load_definition(file)))
    for name, count in (("add", 2), ("act", 0), ("layernorm", 2 * LAYERS + 1), ("rope", 0)):
        assert listing.count(f" = {name}(") == count, name
    assert listing.count("both ways") == LAYERS


def error(file):
    with pytest.raises(ModelFileError) as caught:
        load_definition(file)
    return str(caught.value).removeprefix("changed.gguf: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bert.attention.layer_norm_epsilon", None, "layer_norm_rms_epsilon: missing"),
        ("bert.attention.layer_norm_epsilon", 2.0, "bert.attention.layer_norm_epsilon: 2.0"),
        ("bert.context_length", CONTEXT + 1, "position_embd.weight: expected shape [97, 48]"),
        ("bert.attention.head_count", 6, "heads of 8 are not supported"),
        ("bert.attention.head_count", 2, "heads of 24 are not supported"),
        ("tokenizer.ggml.token_type_count", None, "tokenizer.ggml.token_type_count"),
        ("tokenizer.ggml.token_type_count", 3, "token_types.weight: expected shape [3, 48]"),
    ],
)
def test_metadata_that_contradicts_the_file(file, key, value, message):
    assert message in error(changed(file, metadata={key: value}))


def test_tensors_that_are_wrong(file):
    assert "token_embd_norm.bias: missing" in error(
        changed(file, tensors={"token_embd_norm.bias": None})
    )
    extra = TensorInfo("cls.weight", quant_type("F32"), (1,), np.zeros(4, np.uint8))
    assert "cls.weight: architecture bert has no use" in error(
        changed(file, tensors={"cls.weight": extra})
    )


def test_segments_and_some_biases_may_be_absent(file):
    gone = ["token_types.weight", "blk.0.attn_q.bias", "blk.1.ffn_up.bias"]
    model = load_definition(changed(file, tensors=dict.fromkeys(gone)))
    assert model.segments is None
    texts = texts_of(model.config.vocab)
    reference = eager.run(model, torch.tensor(np.concatenate(texts)), lengths=LENGTHS)["hidden"]
    assert worst(np.concatenate(hidden_of(model, texts)), reference.numpy()) <= 1e-5


def test_other_architectures_may_see_both_ways(tmp_path):
    keys = {"qwen2.attention.causal": False}
    path = random_model(tmp_path / "m.gguf", "qwen2", weight_type="F32", metadata=keys)
    model = load_definition(GGUFFile.open(path))
    texts = texts_of(model.config.vocab)
    reference = eager.run(model, torch.tensor(np.concatenate(texts)), lengths=LENGTHS)["hidden"]
    assert worst(np.concatenate(hidden_of(model, texts)), reference.numpy()) <= 1e-5
    (first,) = hidden_of(model, [texts[3]])
    (prefix,) = hidden_of(model, [texts[3][:50]])
    assert (first[:50] != prefix).any()
