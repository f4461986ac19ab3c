"""LoRA adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

Fields and names: https://huggingface.co/docs/peft/package_reference/lora
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from localllm.errors import ModelFileError
from localllm.gguf.mapping import MappedFile
from localllm.gguf.metadata import shown
from localllm.models.adapters.base import Pair, paired
from localllm.models.blocks import Decoder, Model
from localllm.models.safetensors import StoredTensor, read_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_MOST_CONFIG = 1 << 20  # bytes

# What changes the computation beyond A and B of linear weights.
_UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)
# Ways to begin that leave the base model as it is; the others train on a changed one.
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")

# transformers to GGUF, of a block
_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.(?P<half>lora_[AB])\.weight")
_BLOCK = re.compile(
    r"(?:model\.|model\.language_model\.|language_model\.model\.)?"
    r"layers\.(?P<number>\d{1,4})\.(?P<part>.+)"
)
_PATTERN = re.compile(r"\^?[\w.]+")


def read_peft(folder: Path, model: Model) -> dict[str, Pair]:
    """The pairs of a folder by the names of the model's tensors.

    Raises:
        ModelFileError: naming the file, and the field or tensor that is wrong or not supported.
    """
    config = _Config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.exists():
        raise ModelFileError(f"{path}: no such file", "weights in other formats are not read")
    halves: dict[str, dict[str, StoredTensor]] = {}
    for tensor in read_safetensors(path).values():
        if tensor.name.endswith(".base_layer.weight"):  # the model's own, saved beside a head's
            continue
        match = _TENSOR.fullmatch(tensor.name)
        if match is None:
            raise ModelFileError(
                f"{path}: tensor {shown(tensor.name)}: neither lora_A nor lora_B of a weight"
            )
        halves.setdefault(match["module"], {})[match["half"]] = tensor
    pairs: dict[str, Pair] = {}
    for module, a, b in paired(path, halves, ("lora_A", "lora_B")):
        name = _target(module)
        if name is None or name in pairs:
            what = "experts are" if "experts" in module else "this is"
            raise ModelFileError(
                f"{path}: tensor {shown(a.name)}: adapters of {shown(module)}: {what} not supported"
            )
        rank, scale = config.of(module)
        if a.shape[0] != rank:
            raise ModelFileError(
                f"{path}: tensor {shown(a.name)}: rank {a.shape[0]}, but {CONFIG} says {rank}"
            )
        pairs[name] = Pair(a, b, scale, _heads(name, model))
    return pairs


def _target(module: str) -> str | None:
    """The GGUF name of a module's weight."""
    if module == "lm_head":
        return "output.weight"
    match = _BLOCK.fullmatch(module)
    if match is None or match["part"] not in _NAMES:
        return None
    return f"blk.{int(match['number'])}.{_NAMES[match['part']]}.weight"


def _heads(name: str, model: Model) -> int:
    """How many heads' rows the converter interleaved in a weight; 0: it did not."""
    rope = model.layers[0].attention.rope if isinstance(model, Decoder) else None
    if rope is None or not rope.interleaved:
        return 0
    config = model.config
    heads = {"attn_q": config.heads, "attn_k": config.kv_heads}
    return heads.get(name.split(".")[-2], 0)


class _Config:
    """`adapter_config.json`, checked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        values = self._load()
        if values.get("peft_type") != "LORA":
            raise self._fail("peft_type", f"{_brief(values.get('peft_type'))}: only LORA is read")
        for key in _UNSUPPORTED:
            if values.get(key):
                raise self._fail(key, "not supported")
        if values.get("bias", "none") not in (None, "none"):
            raise self._fail("bias", f"{_brief(values['bias'])}: biases are not supported")
        beginning = values.get("init_lora_weights")
        if beginning not in _BEGINNINGS:
            raise self._fail("init_lora_weights", f"{_brief(beginning)}: it changes the base model")
        self._rslora = values.get("use_rslora") is True
        self._rank = values.get("r")
        self._alpha = values.get("lora_alpha")
        self._ranks = self._patterns(values, "rank_pattern")
        self._alphas = self._patterns(values, "alpha_pattern")

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module."""
        rank = _matching(self._ranks, module, self._rank)
        alpha = _matching(self._alphas, module, self._alpha)
        if type(rank) is not int or not 0 < rank < 1 << 20:
            raise self._fail("r", f"{_brief(rank)}: must be a whole number above 0")
        if type(alpha) not in (int, float) or not abs(alpha) <= 1e9:
            raise self._fail("lora_alpha", f"{_brief(alpha)}: must be a number of sane size")
        return rank, alpha / (math.sqrt(rank) if self._rslora else rank)

    def _load(self) -> Mapping[str, Any]:
        data = MappedFile(self._path).data
        if data.size > _MOST_CONFIG:
            raise ModelFileError(f"{self._path}: {data.size} bytes are too many")
        try:
            values = json.loads(data.tobytes())
        except (ValueError, RecursionError) as error:
            raise ModelFileError(f"{self._path}: {shown(str(error))}") from None
        if not isinstance(values, dict):
            raise ModelFileError(f"{self._path}: must be a JSON object")
        return values

    def _patterns(self, values: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Values by module name, or the end of one; regular expressions could take for ever."""
        patterns = values.get(key) or {}
        if not isinstance(patterns, dict):
            raise self._fail(key, "must be a JSON object")
        plain = {pattern.replace("\\.", "."): value for pattern, value in patterns.items()}
        for pattern in plain:
            if not _PATTERN.fullmatch(pattern):
                raise self._fail(key, f"{shown(pattern)}: only names of modules are supported")
        return plain

    def _fail(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {key}: {problem}")


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that is the module's name or, without ^, ends it."""
    for pattern, value in patterns.items():
        if pattern == f"^{module}" or f".{module}".endswith(f".{pattern}"):
            return value
    return default


def _brief(value: Any) -> str:
    return shown(json.dumps(value))
