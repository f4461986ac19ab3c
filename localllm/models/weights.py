"""Binds tensor names to weights and checks each against the configuration."""

from __future__ import annotations

from localllm.errors import ModelFileError
from localllm.gguf import GGUFFile
from localllm.gguf.metadata import shown
from localllm.models.config import ModelConfig
from localllm.ops.spec import Float32, Weight

# tensors that some converters write and that carry nothing a model needs
_REDUNDANT = ("rope_freqs.weight", "rope.freqs", "attn_rot_embd.weight", "rotary_emb.inv_freq")


class Weights:
    """The tensors of a file under a configuration; `check_all_used` afterwards.

    Args:
        file: the open model file.
        config: what the shapes must agree with.
        prefix: put before every name; `layer` makes the one of a block.
    """

    def __init__(self, file: GGUFFile, config: ModelConfig, prefix: str = "") -> None:
        self.file = file
        self.config = config
        self._prefix = prefix
        self._used: set[str] = set()

    def layer(self, number: int) -> Weights:
        """The same file, with names relative to a block: "blk.3."."""
        inner = Weights(self.file, self.config, f"blk.{number}.")
        inner._used = self._used
        return inner

    def get(self, name: str, *shape: int) -> Weight:
        """A tensor that must be there, in that row-major shape and a type that runs.

        Raises:
            ModelFileError: naming file and tensor, and what was expected and found.
        """
        found = self.optional(name, *shape)
        if found is None:
            raise ModelFileError(
                f"{self.file.path}: tensor {self._prefix}{name}: missing from the file "
                f"(architecture {self.config.arch})"
            )
        return found

    def optional(self, name: str, *shape: int) -> Weight | None:
        """A tensor that may be absent; where it is there, it is checked like any other."""
        info = self.file.tensors.get(self._prefix + name)
        if info is None:
            return None
        where = f"{self.file.path}: tensor {info.name}"
        if tuple(info.shape) != shape:
            raise ModelFileError(f"{where}: expected shape {list(shape)}, found {list(info.shape)}")
        if not info.type.runnable:
            raise ModelFileError(f"{where}: type {info.type.name} cannot be run")
        if len(shape) == 1 and info.type.block_size > 1:  # part of a vector is not whole blocks
            raise ModelFileError(f"{where}: a vector of type {info.type.name} cannot be run")
        self._used.add(info.name)
        return Weight(info.name, shape, info)

    def has(self, name: str) -> bool:
        """Whether the file holds the tensor."""
        return self._prefix + name in self.file.tensors

    def vector(self, name: str, length: int) -> Float32 | None:
        """The values of a small tensor that may be absent: float32 [length], finite, not zero."""
        weight = self.optional(name, length)
        if weight is None:
            return None
        values = weight.float32()
        if not (abs(values) > 0).all() or not (abs(values) < float("inf")).all():
            raise ModelFileError(f"{self.file.path}: tensor {weight.name}: holds zero or infinity")
        return values

    def check_all_used(self) -> None:
        """A tensor that no part of the definition asked for would be silently left out.

        Raises:
            ModelFileError: naming the first such tensor.
        """
        for name in self.file.tensors:
            if name not in self._used and not name.endswith(_REDUNDANT):
                raise ModelFileError(
                    f"{self.file.path}: tensor {shown(name)}: architecture {self.config.arch} "
                    "has no use for it"
                )
