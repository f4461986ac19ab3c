"""Which type each tensor of a quantised model gets: the mixes that llama-quantize made customary.

A mix has one type for most tensors and better ones where errors hurt most: the output, what
attention reads as values, and what leaves the feed-forward network, in the first and last layers
above all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from localllm.errors import UsageError
from localllm.gguf import GGUFFile, QuantType, TensorInfo, quant_type
from localllm.gguf.types import FILE_TYPES


@dataclass(frozen=True)
class Mix:
    """A way to quantise a model.

    Attributes:
        name: what users call it, such as ``"Q4_K_M"``.
    """

    name: str

    @property
    def type(self) -> str:
        """ggml's name of the type that most tensors get."""
        return re.sub(r"_[SML]$", "", self.name)

    @property
    def file_type(self) -> int:
        """Its number in ``general.file_type``."""
        return FILE_TYPES.index(self.name)


_NAMES = """
    Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4 Q3_K_L Q3_K_M
    Q3_K_S Q2_K F16 BF16 F32
"""
MIXES = tuple(map(Mix, _NAMES.split()))
"""Every mix, the larger ones first in each family."""

_ALIASES = {
    "INT8": "Q8_0",
    "INT4": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "Q4_K": "Q4_K_M",
    "Q3_K": "Q3_K_M",
    "MXFP4_MOE": "MXFP4",
}
_FLOATS = ("F32", "F16", "BF16")

# Tensors that stay as they are: small ones on which much depends.
_KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "position_embd",
    "token_types.weight",
    "attn_rel_b.weight",
    "per_layer_model_proj",
    "altup",
    "laurel",
    "ssm_conv1d",
    "shortconv.conv.weight",
    ".patch_embd",
    ".patch_merger",
    ".rel_pos",
)
# What rows get that are not whole blocks of 256: the nearest type with blocks of 32.
_FALLBACKS = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_LAYER = re.compile(r"blk\.(\d+)\.")


def mix_named(name: str) -> Mix:
    """The mix that users call `name`, in any case, ``int8`` and ``int4`` included.

    Raises:
        UsageError: there is none; names those there are.
    """
    wanted = name.upper().replace("-", "_")
    wanted = _ALIASES.get(wanted, wanted)
    for mix in MIXES:
        if mix.name == wanted:
            return mix
    known = ", ".join(["int8", "int4", *(mix.name for mix in MIXES)])
    raise UsageError(f"no type called {name!r}", f"there are {known}")


def mixes_named(names: str) -> list[Mix]:
    """The mixes of names with commas between, each once; raises as `mix_named`."""
    return list(dict.fromkeys(mix_named(name.strip()) for name in names.split(",") if name.strip()))


@dataclass(frozen=True)
class TypePlan:
    """The type each tensor gets.

    Attributes:
        mix: that gives them.
        types: by tensor name, in the order of the file.
        fallbacks: types that tensors should have had, where their rows are not whole blocks of it.
        unused: patterns of the user that find no tensor whose type could change.
    """

    mix: Mix
    types: Mapping[str, QuantType]
    fallbacks: Mapping[str, str]
    unused: Sequence[str] = ()


def plan_types(
    file: GGUFFile,
    mix: Mix,
    overrides: Sequence[tuple[re.Pattern[str], QuantType]] = (),
    weighted: bool = False,
) -> TypePlan:
    """The types of a quantised model, those that llama-quantize gives.

    Args:
        file: the model.
        mix: how to quantise it.
        overrides: patterns and the type of tensors whose name one finds; the first counts.
        weighted: whether an importance matrix goes with it: some mixes then differ.
    """
    rules = _Rules(_Model.of(file), mix.name, weighted)
    types: dict[str, QuantType] = {}
    fallbacks: dict[str, str] = {}
    for tensor in sorted(file.tensors.values(), key=lambda tensor: _in_layers(tensor.name)):
        wanted = tensor.type.name
        if is_quantised(tensor):
            named = next((type for pattern, type in overrides if pattern.search(tensor.name)), None)
            if named is not None:
                wanted = named.name
            else:
                wanted = mix.type if mix.type in _FLOATS else rules.type_of(tensor, mix.type)
            found = fitting(wanted, tensor.shape[-1])
            if found != wanted:
                fallbacks[tensor.name] = wanted
            wanted = found
        types[tensor.name] = quant_type(wanted)
    names = [tensor.name for tensor in file.tensors.values() if is_quantised(tensor)]
    unused = [one.pattern for one, _ in overrides if not any(map(one.search, names))]
    return TypePlan(mix, {name: types[name] for name in file.tensors}, fallbacks, unused)


def fitting(type: str, columns: int) -> str:
    """`type`, or what rows of so many columns get instead."""
    if columns % quant_type(type).block_size == 0:
        return type
    type = _FALLBACKS.get(type, type)
    return type if columns % quant_type(type).block_size == 0 else "F16"


def is_quantised(tensor: TensorInfo) -> bool:
    """Whether a tensor's type is the mix's choice: matrices, but for the small and delicate."""
    if sum(size > 1 for size in tensor.shape[:-1]) == 0:
        return False
    return tensor.name.endswith("weight") and not any(part in tensor.name for part in _KEPT)


def _in_layers(name: str) -> tuple[int, str]:
    """Sorts tensors by layer, those outside of layers first."""
    match = _LAYER.match(name)
    return int(match[1]) if match else -1, name


@dataclass(frozen=True)
class _Model:
    """What the rules ask of a model."""

    layers: int
    experts: int
    heads_per_kv: int
    tied: bool
    value_tensors: int
    has_70b_shape: bool

    @classmethod
    def of(cls, file: GGUFFile) -> _Model:
        architecture = file.get("general.architecture", str, "")
        layers = file.get(f"{architecture}.block_count", int, 0)
        heads = _first(file, f"{architecture}.attention.head_count", 1)
        kv_heads = _first(file, f"{architecture}.attention.head_count_kv", heads)
        return cls(
            layers=layers,
            experts=file.get(f"{architecture}.expert_count", int, 0),
            heads_per_kv=heads // kv_heads if kv_heads else 0,
            tied="output.weight" not in file.tensors,
            value_tensors=sum(_role(name) in _VALUES for name in file.tensors),
            has_70b_shape=layers == 80
            and (architecture == "qwen2" or (architecture == "llama" and heads != kv_heads)),
        )


def _first(file: GGUFFile, key: str, default: int) -> int:
    """A number of heads; the first layer's where each has its own."""
    value = file.metadata.get(key, default)
    if isinstance(value, int):
        return value
    return int(file.get(key, list)[0])


_ROLES = (
    "attn_qkv.weight",
    "attn_kv_b.weight",
    "attn_v.weight",
    "attn_k.weight",
    "attn_output.weight",
    "ffn_down",
)
_VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")


def _role(name: str) -> str:
    if name == "output.weight":
        return name
    if name in ("token_embd.weight", "per_layer_token_embd.weight"):
        return "token_embd.weight"
    return next((role for role in _ROLES if role in name), "")


@dataclass
class _Rules:
    """The exceptions from a mix's main type; asked for the tensors in the order of the layers."""

    model: _Model
    mix: str
    weighted: bool
    _values: int = field(default=0, init=False)
    _downs: int = field(default=0, init=False)

    def type_of(self, tensor: TensorInfo, main: str) -> str:
        """The type of one tensor, whatever its rows."""
        role = _role(tensor.name)
        if role == "output.weight" or (role == "token_embd.weight" and self.model.tied):
            odd = tensor.shape[-1] % quant_type(main).block_size != 0
            return "Q8_0" if odd or main == "Q8_0" or self.mix == "MXFP4" else "Q6_K"
        if self.mix == "MXFP4":  # for experts; what every token passes is stored better
            return "MXFP4" if len(tensor.shape) == 3 and tensor.shape[0] > 1 else "Q8_0"
        if role in _VALUES:
            self._values += 1
            return self._value_type(self._values - 1, main)
        if role == "attn_k.weight":
            return "Q8_0" if self.model.experts == 8 else main
        if role == "ffn_down":
            layer = self._downs
            self._downs += 1
            if self.model.experts > 1:  # a layer may have several
                layer = _in_layers(tensor.name)[0]
            return self._down_type(layer, main)
        if role == "attn_output.weight":
            return self._attention_output_type(main)
        return main

    def _value_type(self, index: int, main: str) -> str:
        type = main
        if self.mix == "Q2_K":
            type = "Q4_K" if self.model.heads_per_kv >= 4 else "Q3_K"
        elif self.mix == "Q3_K_M":
            type = "Q5_K" if index < 2 else "Q4_K"
        elif (
            self.mix == "Q3_K_L"
            or (self.mix == "Q4_K_S" and index < 4)
            or (self.mix in ("IQ4_NL", "IQ4_XS") and self.model.heads_per_kv >= 4)
        ):
            type = "Q5_K"
        elif self.mix in ("Q4_K_M", "Q5_K_M") and _more_bits(index, self.model.value_tensors):
            type = "Q6_K"
        if self.model.has_70b_shape and type in ("Q3_K", "Q4_K"):
            type = "Q5_K"  # eight heads share them: they are small
        return "Q8_0" if self.model.experts == 8 else type

    def _down_type(self, layer: int, main: str) -> str:
        layers = self.model.layers
        early = layer < layers // 8
        if self.mix == "Q2_K":
            return "Q3_K"
        if self.mix == "Q3_K_M":
            return "Q5_K" if layer < layers // 16 else "Q4_K"
        if self.mix == "Q3_K_L":
            return "Q5_K"
        if self.mix in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, layers):
            return "Q6_K"
        if early and (
            self.mix == "Q4_K_S" or (self.mix in ("IQ4_NL", "IQ4_XS") and not self.weighted)
        ):
            return "Q5_K"
        if early and self.mix in ("Q4_0", "Q5_0") and self.weighted:
            return "Q4_1" if self.mix == "Q4_0" else "Q5_1"
        return main

    def _attention_output_type(self, main: str) -> str:
        if self.model.experts == 8:
            small = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_NL", "IQ4_XS", "Q4_K_S", "Q4_K_M")
            return "Q5_K" if self.mix in small else main
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(self.mix, main)


def _more_bits(layer: int, layers: int) -> bool:
    """The layers that the mixes spend more on: the first and last eighth, each third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
