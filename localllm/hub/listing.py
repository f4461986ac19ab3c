"""What a repository of the hub holds: its files, and the models they make."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from localllm.errors import LocalLLMError, UsageError
from localllm.gguf.types import RUNNABLE_TYPES
from localllm.hub.references import COMMIT, Reference, of_quantisation, quantisation_of
from localllm.hub.store import SHA256, is_model, shard_count, shards_of
from localllm.units import in_bytes

# What makes a checkpoint of transformers, beside its weights; README.md names its licence.
_CHECKPOINT = re.compile(
    r"README\.md|[\w.-]*\.json|tokenizer\.model|[\w.-]+\.(?:txt|jinja)|1_Pooling/config\.json"
)
_LARGEST_PLAIN = 64 * 2**20  # bytes of a file that the hub keeps in git itself
_LARGEST_ANSWER = 64 * 2**20  # bytes; that of a repository of 30,000 files has 8 million


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: in the repository.
        bytes: its size.
        sha256: of its contents; None for a small file that git itself keeps.
    """

    path: str
    bytes: int
    sha256: str | None


@dataclass(frozen=True)
class RemoteModel:
    """A GGUF model of a repository: one file, or all its shards in order."""

    quantisation: str
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files)

    @property
    def whole(self) -> bool:
        """Whether every shard is there."""
        return len(self.files) == shard_count(self.files[0].path)

    @property
    def label(self) -> str:
        """What tells it from the others: its quantisation, else the file's name."""
        return self.quantisation or self.files[0].path.rpartition("/")[2]

    @property
    def runnable(self) -> bool:
        """Whether its weights are of a type that runs here, as far as its name tells."""
        types = {kind.name for kind in RUNNABLE_TYPES}
        name = self.quantisation.removeprefix("UD-").removesuffix("_MOE")
        return not name or name in types or name.rpartition("_")[0] in types


@dataclass(frozen=True)
class Repository:
    """A repository at one revision.

    Attributes:
        name: `user/repo`, as the hub spells it.
        revision: the commit.
        files: all its files.
    """

    name: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def models(self) -> list[RemoteModel]:
        """Its GGUF models, the smallest first."""
        by_path = {file.path: file for file in self.files}
        models = [
            RemoteModel(quantisation_of(path), tuple(by_path[s] for s in shards_of(path, by_path)))
            for path in by_path
            if is_model(path)
        ]
        return sorted(models, key=lambda model: model.bytes)

    @property
    def checkpoint(self) -> tuple[RemoteFile, ...]:
        """The files that a conversion needs; empty where it holds no safetensors of a model."""
        weights = [f for f in self.files if f.path.endswith(".safetensors") and "/" not in f.path]
        # Some repositories hold the same weights twice, once for another program.
        weights = [f for f in weights if not f.path.startswith("consolidated")] or weights
        rest = [f for f in self.files if _CHECKPOINT.fullmatch(f.path)]
        if not weights or all(file.path != "config.json" for file in rest):
            return ()
        return (*rest, *weights)


def list_repository(wanted: Reference) -> Repository:
    """Ask the hub what a repository holds.

    Raises:
        HfHubHTTPError, httpx2.HTTPError: the hub does not say.
        LocalLLMError: what it says cannot be.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import (
        build_hf_headers,
        get_session,
        hf_raise_for_status,
        validate_repo_id,
    )

    revision = quote(wanted.revision, safe="")
    url = f"{constants.ENDPOINT}/api/models/{wanted.repository}/revision/{revision}?blobs=true"
    answer = bytearray()
    with get_session().stream("GET", url, headers=build_hf_headers(), timeout=30) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            answer += chunk
            if len(answer) > _LARGEST_ANSWER:
                raise _no_answer(wanted)
    try:
        found = json.loads(answer)
        name, commit = found["id"], found.get("sha")
        validate_repo_id(name)  # it comes from a server and becomes the name of a folder
        if "/" not in name:
            raise ValueError
        listed = [_listed(one) for one in found.get("siblings") or ()]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise _no_answer(wanted) from None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise LocalLLMError(f"{wanted.repository}: the hub names no commit: {commit!r}")
    return Repository(name, commit, tuple(file for file in listed if file is not None))


def _listed(entry: Any) -> RemoteFile | None:
    """A file of the hub's answer; None for one that is not to be had.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is none at all.
    """
    lfs, path = entry.get("lfs"), entry["rfilename"]
    sha256 = None if lfs is None else lfs["sha256"]
    size = (entry if lfs is None else lfs).get("size")
    if sha256 is not None and not SHA256.fullmatch(sha256):
        raise ValueError
    # These come from a server and become names of files.
    strange = not path.isprintable() or {"", ".", ".."} & set(path.split("/")) or "\\" in path
    if strange or type(size) is not int or size < 0:
        return None
    if sha256 is None and size > _LARGEST_PLAIN:
        return None
    return RemoteFile(path, size, sha256)


def _no_answer(wanted: Reference) -> LocalLLMError:
    return LocalLLMError(
        f"{wanted.repository}: the answer is no list of its files", "HF_ENDPOINT must name a hub"
    )


def choose(models: Sequence[RemoteModel], wanted: Reference, default: str) -> RemoteModel | None:
    """The model that a reference names, else the default one, else the only one; None: several.

    With an empty `default` there is none.

    Raises:
        UsageError: it names one that the repository does not have; lists what there is.
    """
    if wanted.file:
        for model in models:
            if any(file.path == wanted.file for file in model.files):
                return model
        raise _no_such(wanted.repository, wanted.file, models)
    asked = wanted.wanted
    if (named := of_quantisation(models, asked or default)) is not None:
        return named
    if asked:
        for model in models:
            if model.files[0].path.rpartition("/")[2].lower() == asked.lower():
                return model
        raise _no_such(wanted.repository, wanted.wanted, models)
    return models[0] if len(models) == 1 else None


def best_fitting(models: Sequence[RemoteModel], memory: int) -> RemoteModel | None:
    """The largest model that runs here and leaves room in so many bytes of memory; None: none.

    Of its file's size a tenth more is allowed for, and 256 MiB for a context. Float weights are
    taken only where there is nothing else: 8 bits tell the same and take half.
    """
    runnable = [m for m in models if m.runnable and m.bytes * 1.1 + 2**28 <= memory]
    quantised = [m for m in runnable if m.quantisation not in ("F32", "F16", "BF16")]
    return max(quantised or runnable, key=lambda model: model.bytes, default=None)


def listed(models: Sequence[RemoteModel]) -> str:
    """The choices in one line."""
    return ", ".join(f"{model.label} ({in_bytes(model.bytes)})" for model in models)


def _no_such(repository: str, asked: str, models: Sequence[RemoteModel]) -> UsageError:
    return UsageError(f"{repository} has no {asked}", f"it has {listed(models)}")
