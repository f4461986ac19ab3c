"""The registry of ggml tensor types: ids, names and block sizes (ggml.h, ggml-common.h).

The `gguf` package has this table too, and a test compares the two. Its import takes 60 ms or more,
where a file with a vocabulary of 128,000 opens in 10, and it has no names for the types that ggml
gave up; so it is imported for writing only.
"""

from __future__ import annotations

from dataclasses import dataclass

from localllm.errors import ModelFileError


@dataclass(frozen=True)
class QuantType:
    """One ggml tensor type.

    Attributes:
        id: the number that stands in the file.
        name: ggml's name, such as ``"Q4_K"``.
        block_size: elements in a block; the rows of a tensor are whole blocks.
        type_size: bytes of a block.
        runnable: whether the type can be dequantised and run here.
    """

    id: int
    name: str
    block_size: int
    type_size: int
    runnable: bool = False

    @property
    def bits_per_weight(self) -> float:
        """Bits that one element takes in the file, scales included."""
        return 8 * self.type_size / self.block_size

    def nbytes(self, elements: int) -> int:
        """Bytes of `elements` elements, which must be whole blocks."""
        if elements % self.block_size:
            raise ValueError(f"{elements} elements are not whole {self.name} blocks")
        return elements // self.block_size * self.type_size

    def __str__(self) -> str:
        return self.name


_RUNNABLE = (
    QuantType(0, "F32", 1, 4, True),
    QuantType(1, "F16", 1, 2, True),
    QuantType(2, "Q4_0", 32, 18, True),
    QuantType(3, "Q4_1", 32, 20, True),
    QuantType(6, "Q5_0", 32, 22, True),
    QuantType(7, "Q5_1", 32, 24, True),
    QuantType(8, "Q8_0", 32, 34, True),
    QuantType(10, "Q2_K", 256, 84, True),
    QuantType(11, "Q3_K", 256, 110, True),
    QuantType(12, "Q4_K", 256, 144, True),
    QuantType(13, "Q5_K", 256, 176, True),
    QuantType(14, "Q6_K", 256, 210, True),
    QuantType(20, "IQ4_NL", 32, 18, True),
    QuantType(23, "IQ4_XS", 256, 136, True),
    QuantType(30, "BF16", 1, 2, True),
    QuantType(39, "MXFP4", 32, 17, True),
)

_KNOWN_BY_NAME_ONLY = (
    QuantType(4, "Q4_2", 16, 10),  # removed from ggml in 2023
    QuantType(5, "Q4_3", 16, 12),  # removed from ggml in 2023
    QuantType(9, "Q8_1", 32, 36),
    QuantType(15, "Q8_K", 256, 292),
    QuantType(16, "IQ2_XXS", 256, 66),
    QuantType(17, "IQ2_XS", 256, 74),
    QuantType(18, "IQ3_XXS", 256, 98),
    QuantType(19, "IQ1_S", 256, 50),
    QuantType(21, "IQ3_S", 256, 110),
    QuantType(22, "IQ2_S", 256, 82),
    QuantType(24, "I8", 1, 1),
    QuantType(25, "I16", 1, 2),
    QuantType(26, "I32", 1, 4),
    QuantType(27, "I64", 1, 8),
    QuantType(28, "F64", 1, 8),
    QuantType(29, "IQ1_M", 256, 56),
    QuantType(31, "Q4_0_4_4", 32, 18),  # 31..33, 36..38: interleaved in the file, removed in 2024
    QuantType(32, "Q4_0_4_8", 32, 18),
    QuantType(33, "Q4_0_8_8", 32, 18),
    QuantType(34, "TQ1_0", 256, 54),
    QuantType(35, "TQ2_0", 256, 66),
    QuantType(36, "IQ4_NL_4_4", 32, 18),
    QuantType(37, "IQ4_NL_4_8", 32, 18),
    QuantType(38, "IQ4_NL_8_8", 32, 18),
    QuantType(40, "NVFP4", 64, 36),
    QuantType(41, "Q1_0", 128, 18),
    QuantType(42, "Q2_0", 64, 18),
)

QUANT_TYPES: tuple[QuantType, ...] = tuple(
    sorted(_RUNNABLE + _KNOWN_BY_NAME_ONLY, key=lambda quant: quant.id)
)
"""Every type that ggml has or had, by id."""

RUNNABLE_TYPES: tuple[QuantType, ...] = _RUNNABLE
"""The types that load and run."""

_FILE_TYPES = """
    F32 F16 Q4_0 Q4_1 - - - Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M
    Q6_K IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M
    BF16 - - - TQ1_0 TQ2_0 MXFP4
"""
FILE_TYPES = tuple(_FILE_TYPES.split())
"""Names of the numbers in ``general.file_type`` (llama.cpp's enum llama_ftype); "-": unused."""

QUANTIZATION_VERSION = 2
"""``general.quantization_version`` of ggml's formats, as they are since 2023."""

_BY_ID = {quant.id: quant for quant in QUANT_TYPES}
_BY_NAME = {quant.name: quant for quant in QUANT_TYPES}


def quant_type_by_id(type_id: int) -> QuantType:
    """The type with ggml's number `type_id`; ModelFileError where there is none."""
    quant = _BY_ID.get(type_id)
    if quant is None:
        raise ModelFileError(f"tensor type {type_id} is unknown")
    return quant


def quant_type(name: str) -> QuantType:
    """The type with ggml's name `name`, in any case; ModelFileError where there is none."""
    quant = _BY_NAME.get(name.upper())
    if quant is None:
        raise ModelFileError(f"tensor type {name!r} is unknown")
    return quant
