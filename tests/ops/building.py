"""Random weights without a file, and the means to run definitions on them."""

import zlib
from types import SimpleNamespace

import numpy as np
import torch

from localllm.gguf import TensorInfo, quant_type
from localllm.ops import eager
from localllm.ops.spec import Weight


def weight(name, *shape, gain=1.0):
    """A float32 weight whose values depend on its name and shape only."""
    random = np.random.default_rng([zlib.crc32(name.encode()), *shape])
    values = random.standard_normal(shape, np.float32) * np.float32(gain / shape[-1] ** 0.5)
    if len(shape) == 1:
        values = 1 + values
    return of_array(name, values)


def of_array(name, values):
    data = np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
    return Weight(name, values.shape, TensorInfo(name, quant_type("F32"), values.shape, data))


def definition(forward):
    """A function of ops as a definition."""
    return SimpleNamespace(forward=forward)


def run(program, tokens=(3, 1, 4, 1, 5), **options):
    """Outputs by name, as numpy."""
    results = eager.run(program, torch.tensor(tokens), **options)
    return {name: values.detach().numpy() for name, values in results.items()}


def assert_same(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance)
