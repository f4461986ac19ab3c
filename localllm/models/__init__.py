"""Model definitions: what an architecture is, said once on `localllm.ops.spec.Ops`.

`load_definition` finds the architecture of a file by name, reads its configuration, binds and
checks its tensors. Each architecture is one file in `architectures/`.
"""

from localllm.models.blocks import Model
from localllm.models.config import ModelConfig
from localllm.models.registry import load_definition, supported_architectures

__all__ = [
    "Model",
    "ModelConfig",
    "load_definition",
    "supported_architectures",
]
