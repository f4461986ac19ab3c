"""What the kernel tests share."""

import pytest

from localllm import _native


@pytest.fixture(params=_native.available_isas())
def isa(request) -> str:
    """Each instruction set that this processor can run."""
    return request.param
