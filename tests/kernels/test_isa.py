"""The instruction set in use, and the variable that forces one."""

import os
import subprocess
import sys

from localllm import _native

PRINT = "from localllm import _native; print(_native.isa())"


def run(isa):
    environment = os.environ | {"LOCALLLM_ISA": isa}
    return subprocess.run(
        [sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=False
    )


def test_scalar_is_always_there():
    available = _native.available_isas()
    assert available[-1] == "scalar"
    assert len(set(available)) == len(available)
    assert _native.isa() in available


def test_each_can_be_forced():
    for isa in _native.available_isas():
        assert run(isa).stdout.strip() == isa


def test_an_unknown_one_is_refused_by_name():
    result = run("sse9")
    assert result.returncode == 1
    assert "sse9" in result.stderr
    assert "scalar" in result.stderr


def test_empty_means_the_best():
    assert run("").stdout.strip() in _native.available_isas()
