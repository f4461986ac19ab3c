"""The models on this machine: those in the Hugging Face cache, and those in a folder of our own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.hub.folders import hugging_face_cache, models_dir
from localllm.hub.receipts import read_receipt
from localllm.hub.references import quantisation_of

BUNDLED = "tiny-chat"  # comes with the program
# Not `<hash>.incomplete`: versions of huggingface_hub go on with a file of that name, whose bytes
# they believe to be there up to its end.
UNFINISHED = ".parts.incomplete"

_LATER_SHARD = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True)
class CachedFile:
    """One GGUF model on this machine; of a split model, the first shard.

    Attributes:
        repository: `user/repo`, or `host/name` for a model from another server.
        quantisation: as its file's name states it; empty where it states none.
        path: of the file, in the Hugging Face cache a link.
        file: the path within the repository.
    """

    repository: str
    quantisation: str
    path: Path
    file: str

    @property
    def name(self) -> str:
        """`user/repo:QUANT`, the name that finds this file again."""
        return f"{self.repository}:{self.quantisation}" if self.quantisation else self.repository

    @property
    def shards(self) -> list[Path]:
        """Every file of the model: one, or all shards that are there."""
        folder = self.path.parent
        return [folder / name for name in shards_of(self.path.name, os.listdir(folder))]

    @property
    def whole(self) -> bool:
        """Whether every shard is there."""
        return len(self.shards) == shard_count(self.path.name)

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(path.stat().st_size for path in self.shards)


@dataclass(frozen=True)
class Origin:
    """Where a model on this machine came from.

    Attributes:
        repository: `user/repo`, or an address.
        revision: the commit; of an address the ETag, which may be empty.
        sha256: of its (first) file; None where nobody has noted it.
    """

    repository: str
    revision: str
    sha256: str | None


def origin_of(path: Path) -> Origin | None:
    """Where the model of a path came from; None for a file that was not downloaded here."""
    if (receipt := read_receipt(path)) is not None:
        return Origin(receipt.source, receipt.revision, receipt.sha256)
    cache = hugging_face_cache()
    if cache not in path.parents:
        return None
    folder, snapshots, revision, *_ = path.relative_to(cache).parts
    if snapshots != "snapshots" or not folder.startswith("models--"):
        return None
    # A link of the cache points at a file that has the hash for its name. That may be a link too.
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    return Origin(repository_of(folder), revision, blob if SHA256.fullmatch(blob) else None)


def cached_files() -> Iterator[CachedFile]:
    """Every GGUF model on this machine, by repository, the current revision first."""
    yield from _in_hugging_face_cache()
    yield from _in_own_folder()


def snapshots(folder: Path) -> list[Path]:
    """Revisions of a cached repository: the one `main` points at, then the newest."""
    found = [p for p in (folder / "snapshots").glob("*") if p.is_dir()]
    found.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    try:
        current = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return found
    return sorted(found, key=lambda p: p.name != current)


def is_model(file: str) -> bool:
    """Whether a path in a repository is that of a GGUF model, or of one's first shard."""
    name = file.rpartition("/")[2].lower()
    # the vision half of a model and a table for quantisers are no models of their own
    others = ("mmproj", "imatrix")
    return name.endswith(".gguf") and not name.startswith(others) and not _LATER_SHARD.search(name)


def shard_count(file: str) -> int:
    """How many files the model has that the named one belongs to."""
    stated = _SHARD.search(file)
    return 1 if stated is None else int(stated[1])


def shards_of(first: str, files: Iterable[str]) -> list[str]:
    """The files of the model whose first (or only) file is named, in order."""
    stem, found, rest = first.partition("-00001-of-")
    if not found:
        return [first]
    pattern = re.compile(re.escape(stem) + r"-\d{5}-of-" + re.escape(rest))
    return sorted(file for file in files if pattern.fullmatch(file))


def _in_hugging_face_cache() -> Iterator[CachedFile]:
    for folder in sorted(hugging_face_cache().glob("models--*--*")):
        yield from _files(repository_of(folder.name), snapshots(folder))


def repository_of(folder: str) -> str:
    """The repository of a folder of the cache: `models--user--repo` -> `user/repo`."""
    return folder.removeprefix("models--").replace("--", "/", 1)


def _in_own_folder() -> Iterator[CachedFile]:
    root = models_dir()
    for folder in sorted(root.glob("*/*")):
        yield from _files(str(folder.relative_to(root).as_posix()), [folder])


def _files(repository: str, folders: list[Path]) -> Iterator[CachedFile]:
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*.gguf")):
            file = path.relative_to(folder).as_posix()
            if file in seen or not is_model(file) or path.name.startswith(".") or not path.exists():
                continue
            seen.add(file)
            found = CachedFile(repository, quantisation_of(file), path, file)
            if found.whole:  # another program may be fetching the rest
                yield found
