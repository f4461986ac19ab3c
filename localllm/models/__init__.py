"""Model definitions: what an architecture is, said once on `localllm.ops.spec.Ops`.

`load_definition` finds the architecture of a file by name, reads its configuration, binds and
checks its tensors. Each architecture is one file in `architectures/`.
"""

from localllm.models.blocks import Model
from localllm.models.config import ExpertConfig, ModelConfig, RopeConfig
from localllm.models.registry import load_definition, supported_architectures

__all__ = [
    "ExpertConfig",
    "Model",
    "ModelConfig",
    "RopeConfig",
    "load_definition",
    "supported_architectures",
]
