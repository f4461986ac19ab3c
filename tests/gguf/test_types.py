"""The registry against the gguf package's constants."""

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from localllm.errors import ModelFileError
from localllm.gguf import quant_type, quant_type_by_id
from localllm.gguf.types import QUANT_TYPES, RUNNABLE_TYPES


@pytest.mark.parametrize("reference", GGMLQuantizationType, ids=lambda kind: kind.name)
def test_every_type_of_the_package_is_known(reference):
    quant = quant_type_by_id(reference)
    assert quant is quant_type(reference.name)
    assert quant.name == reference.name
    if quant.name != "Q8_1":  # the package gives it the 40 bytes it had before 2023; ggml has 36
        assert (quant.block_size, quant.type_size) == GGML_QUANT_SIZES[reference]


def test_ids_and_names_are_unique():
    assert len({quant.id for quant in QUANT_TYPES}) == len(QUANT_TYPES)
    assert len({quant.name for quant in QUANT_TYPES}) == len(QUANT_TYPES)


def test_runnable_types():
    names = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4"
    assert {quant.name for quant in RUNNABLE_TYPES} == set(names.split())
    assert quant_type("q4_k").bits_per_weight == 4.5


def test_unknown_types_are_named():
    with pytest.raises(ModelFileError, match="tensor type 12345 is unknown"):
        quant_type_by_id(12345)
    with pytest.raises(ModelFileError, match="tensor type 'Q9_X' is unknown"):
        quant_type("Q9_X")


def test_part_of_a_block_is_refused():
    with pytest.raises(ValueError, match="33 elements are not whole Q4_0 blocks"):
        quant_type("Q4_0").nbytes(33)
