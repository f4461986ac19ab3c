"""The files of llama.cpp's own converter: the same tensors, the same metadata.

Runs where LOCALLLM_LLAMACPP_CONVERTER names its convert_hf_to_gguf.py; that needs torch and
transformers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.convert import convert_checkpoint
from localllm.gguf import GGUFFile, StringArray

CONVERTER = os.environ.get("LOCALLLM_LLAMACPP_CONVERTER")
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not CONVERTER, reason="LOCALLLM_LLAMACPP_CONVERTER is not set"),
]
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from . import building  # noqa: E402
from .building import LLAMA3, QWEN2, SPECIAL, configure, tokenizers  # noqa: E402
from .test_logits import MODELS  # noqa: E402

# It knows pre-tokenizers by what they make of one text with the published vocabularies: here it is
# told. One process converts all, as its imports take longer than its work.
RUN = """
import json, runpy, sys, traceback
from pathlib import Path
script = Path(sys.argv[1])
sys.path[:0] = [str(script.parent), str(script.parent / "gguf-py")]
import conversion.base
for folder, file, type, pre in json.loads(Path(sys.argv[2]).read_text()):
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv[1:] = [folder, "--outfile", file, "--outtype", type]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BaseException:
        Path(file + ".error").write_text(traceback.format_exc())
"""
# guesses from the folder's name, and how the model likes to be sampled
SKIPPED = ("general.name", "general.basename", "general.size_label", "general.finetune")
SKIPPED += ("general.version", "general.organization", "general.languages", "general.tags")
# it writes a factor that llama.cpp does not read for this model; here the one that is read
SKIPPED += ("qwen2.rope.scaling.yarn_attn_factor", "qwen2.rope.scaling.attn_factor")
# it takes every sixth layer of Gemma 3 for a global one, whatever the config says
SKIPPED += ("gemma3.attention.sliding_window_pattern",)
# what is written here also where it is what a reader takes for granted
USUAL = {
    "unknown_token_id": 0,
    "add_space_prefix": True,
    "add_bos_token": False,
    "add_eos_token": False,
    "rope.freq_base_swa": 10000.0,
    "vocab_size": 512,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "rope.freq_base": 10000.0,
    "attention.head_count_kv": 4,
}


def plain(value: Any) -> Any:
    if isinstance(value, StringArray):
        return value.tolist()
    return value.tolist() if isinstance(value, np.ndarray) else value


def assert_same(ours: GGUFFile, theirs: GGUFFile) -> None:
    """Every tensor byte for byte; every key of theirs, and no other but usual ones."""
    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in theirs.tensors.items():
        found = ours.tensors[name]
        assert (found.type, found.shape) == (tensor.type, tensor.shape), name
        if name == "rope_freqs.weight":  # the last digit depends on the order of float32
            np.testing.assert_allclose(found.data.view("<f4"), tensor.data.view("<f4"), rtol=1e-5)
        else:
            np.testing.assert_array_equal(found.data, tensor.data, err_msg=name)
    for key, value in theirs.metadata.items():
        if key not in SKIPPED:
            assert key in ours.metadata, f"{key}: {plain(value)}"
            assert plain(ours.metadata[key]) == plain(value), key
    arch = ours.metadata["general.architecture"]
    for key in set(ours.metadata) - {*theirs.metadata, *SKIPPED}:
        short = key.removeprefix("tokenizer.ggml.").removeprefix(f"{arch}.")
        assert plain(ours.metadata[key]) == USUAL.get(short), key


def with_byte_level(folder: Path, llama: bool) -> str:
    """Gives a checkpoint the tokenizer of Llama 3 or Qwen2; the pre-tokenizer's name."""
    nfc = None if llama else tokenizers.normalizers.NFC()
    made = building.byte_level(LLAMA3 if llama else QWEN2, whole=llama, normalizer=nfc)
    if llama:
        made = building.begins_with_bos(made, SPECIAL[0], 0)
    made.save(str(folder / "tokenizer.json"))
    configure(
        folder,
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        pad_token=SPECIAL[2],
        chat_template="{{ messages }}",
    )
    return "llama-bpe" if llama else "qwen2"


def with_pieces(folder: Path, prefix: bool) -> str:
    """Gives a checkpoint a tokenizer.model; the pre-tokenizer's name."""
    (folder / "tokenizer.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    building.sentencepiece_model(folder, prefix=prefix)
    added = {
        str(number): {"content": text, "special": text != "<note>"}
        for number, text in enumerate(("<unk>", "<s>", "</s>", "<note>"))
    }
    configure(
        folder,
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        add_bos_token=True,
        add_eos_token=False,
        added_tokens_decoder=added,
        chat_template=[
            {"name": "default", "template": "{{ messages }}"},
            {"name": "tool_use", "template": "{{ tools }}"},
        ],
    )
    return "default"


def bert(folder: Path, pooling: str) -> str:
    """A BERT checkpoint as sentence-transformers has it; the pre-tokenizer's name."""
    building.save(building.model("Bert"), folder, building.word_piece())
    configure(
        folder,
        tokenizer_class="BertTokenizer",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    )
    (folder / "modules.json").write_text('[{"type": "s.models.Pooling", "path": "1_Pooling"}]')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(f'{{"pooling_mode_{pooling}": true}}')
    return "bert-bge"


TYPES = [
    (type, dtype)
    for type in ("F32", "BF16", "Q8_0", "auto")
    for dtype in ("float32", "bfloat16")
    if (type, dtype) != ("auto", "float32")  # theirs takes 16 bits there
]
CASES = dict.fromkeys(MODELS, "F16")
CASES |= {f"{type} of {dtype}": type for type, dtype in TYPES}
CASES |= {"bert cls_token": "F16", "bert mean_tokens": "F32"}


def build(folder: Path, name: str) -> str:
    """The checkpoint of a case; the pre-tokenizer's name."""
    if name.startswith("bert"):
        return bert(folder, name.split()[1])
    if name not in MODELS:
        dtype = getattr(torch, name.split()[-1])
        building.save(building.model("Llama", dtype), folder, max_shard_size="90KB")
        return with_pieces(folder, prefix=True)
    kind, options = MODELS[name]
    building.save(building.model(kind, torch.bfloat16, **options), folder)
    if name.startswith(("qwen", "llama 3")):
        return with_byte_level(folder, llama=name.startswith("llama"))
    return with_pieces(folder, prefix=not name.startswith("gemma"))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of checkpoints by number of their case, and what llama.cpp made of each."""
    root = tmp_path_factory.mktemp("checkpoints")
    jobs = [
        (str(root / str(n)), str(root / f"{n}.gguf"), type.lower(), build(root / str(n), name))
        for n, (name, type) in enumerate(CASES.items())
    ]
    (root / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-c", RUN, str(CONVERTER), str(root / "jobs.json")]
    subprocess.run(command, capture_output=True, check=True, timeout=280)
    return root


@pytest.mark.parametrize("name", CASES)
def test_same_file(there: Path, name: str) -> None:
    number = list(CASES).index(name)
    error = there / f"{number}.gguf.error"
    assert not error.exists(), error.read_text()[-2000:]
    ours = there / f"{number}-ours.gguf"
    convert_checkpoint(there / str(number), ours, type=CASES[name])
    assert_same(GGUFFile.open(ours), GGUFFile.open(there / f"{number}.gguf"))
