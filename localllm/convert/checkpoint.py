"""A checkpoint as `save_pretrained` of transformers leaves it: config.json and safetensors files.

Nothing in it is trusted: what a file names must lie beside it, and lengths are checked before
anything is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from localllm.convert.fields import Fields, read_fields
from localllm.errors import ModelFileError, UsageError
from localllm.gguf.metadata import shown
from localllm.models.safetensors import StoredTensor, read_safetensors

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MOST_SHARDS = 4096
_CACHED = re.compile(r"models--(.+)")  # how the cache of the Hugging Face hub names a repository


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; no tensor of it has been read yet.

    Attributes:
        folder: where it lies.
        name: of the model, from the folder's.
        config: config.json.
        tensors: by name, of all shards.
    """

    folder: Path
    name: str
    config: Fields
    tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Opens a folder.

        Raises:
            UsageError: it is no folder with a checkpoint.
            ModelFileError: a file is missing or damaged, or the files contradict each other.
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: is not a folder", "give one with config.json in it")
        if not (folder / _CONFIG).is_file():
            raise UsageError(f"{folder}: there is no {_CONFIG} in it: not a checkpoint")
        return cls(folder, model_name(folder), read_fields(folder / _CONFIG), _read_tensors(folder))

    def optional(self, name: str) -> Fields:
        """The JSON object in a file of the folder; empty where there is no such file."""
        path = self.folder / name
        return read_fields(path) if path.is_file() else Fields({}, str(path))


def inner_name(name: object, where: str) -> str:
    """A relative name that stays inside the folder it is relative to.

    Raises:
        ModelFileError: it does not, or is no name at all.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or "\\" in str(name) or "\0" in str(name) or "/" in parts or ".." in parts:
        raise ModelFileError(f"{where}: {shown(str(name))} does not lie in the checkpoint's folder")
    return str(name)


def model_name(folder: Path) -> str:
    """The name of a folder's model: the folder's; in the hub's cache the repository's."""
    folder = folder.resolve()
    for parent in folder.parents[:2]:
        if found := _CACHED.fullmatch(parent.name):
            return found[1].rpartition("--")[2]
    return folder.name


def _read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, or of the shards that an index names."""
    index = folder / _INDEX
    if not index.is_file():
        if not (folder / _WEIGHTS).is_file():
            raise UsageError(
                f"{folder}: there is no {_WEIGHTS} in it", "only safetensors are converted"
            )
        return read_safetensors(folder / _WEIGHTS)
    places = read_fields(index).object("weight_map")
    names = sorted({inner_name(name, places.where) for name in places.values.values()})
    if len(names) > _MOST_SHARDS:
        raise ModelFileError(f"{index}: {len(names)} shards are too many")
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        for key, tensor in read_safetensors(folder / name).items():
            if key in tensors:
                raise ModelFileError(f"{folder / name}: tensor {shown(key)} is in two shards")
            tensors[key] = tensor
    for key, name in places.values.items():
        if key not in tensors:
            raise ModelFileError(f"{folder / name}: tensor {shown(key)}: missing from the file")
    return tensors
