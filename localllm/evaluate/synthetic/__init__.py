"""Random-weight model files of any architecture and shape: to benchmark and to test without one."""

from localllm.evaluate.synthetic.models import (
    ARCHITECTURES,
    catalog_model,
    catalog_outline,
    random_model,
)

__all__ = [
    "ARCHITECTURES",
    "catalog_model",
    "catalog_outline",
    "random_model",
]
