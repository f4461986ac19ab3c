"""Removing a model from this machine: its files, and what of the cache nothing else uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import LocalLLMError, UsageError
from localllm.hub.folders import expanded, hugging_face_cache, models_dir
from localllm.hub.names import NotHereError, downloadable, find_here, follow_aliases
from localllm.hub.receipts import receipt_file
from localllm.hub.references import Reference
from localllm.hub.store import BUNDLED, UNFINISHED, CachedFile, cached_files, repository_of

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo, HFCacheInfo


@dataclass(frozen=True)
class Removal:
    """What a removal would do.

    Attributes:
        name: of the model.
        files: the names that vanish.
        freed: bytes of disk; less than the files' sizes where something else uses their contents.
        execute: does it.
    """

    name: str
    files: tuple[Path, ...]
    freed: int
    execute: Callable[[], None]


def plan_removal(name: str) -> Removal:
    """What would have to go for a NAME, an alias, or a path within the cache.

    Raises:
        UsageError: the model is the bundled one, a file elsewhere, or several have this name.
        LocalLLMError: it is not here, or the cache cannot be read.
    """
    target = follow_aliases(name)[0] or name
    if target.lower() == BUNDLED:
        raise UsageError(f"{BUNDLED} comes with the program and stays")
    path = expanded(target)
    if path.is_file():
        found = next((f for f in cached_files() if path.absolute() in f.shards), None)
        if found is None:
            hint = "only models that were downloaded are removed"
            raise UsageError(f"{target} is a file outside the cache", hint)
    elif (left := _left_over(target)) is not None:
        return left
    else:
        found = _named(target)
    try:
        if models_dir() in found.path.parents:
            return _from_own_folder(found)
        return _from_cache(found)
    except OSError as error:
        raise LocalLLMError(f"{error.filename}: {error.strerror}") from error


def _named(name: str) -> CachedFile:
    wanted, default = downloadable(name)
    found = find_here(name, wanted, default)
    same = [f.name for f in cached_files() if f.repository == found.repository]
    if isinstance(wanted, Reference) and not (wanted.wanted or wanted.file) and len(same) > 1:
        raise UsageError(f"{found.repository} is here as {', '.join(same)}", "name one of them")
    return found


def _left_over(name: str) -> Removal | None:
    """What is here of a repository of which no model is; None: nothing.

    The checkpoint that a model was made of, and what interrupted downloads left.
    """
    wanted, default = downloadable(name)
    if isinstance(wanted, Reference) and (wanted.wanted or wanted.file):
        return None  # whose they are cannot be told
    with suppress(NotHereError):
        find_here(name, wanted, default)
        return None
    both = _unfinished(wanted.repository), _checkpoint(wanted.repository)
    found = [removal for removal in both if removal is not None]
    return _together(found) if found else None


def _together(removals: Sequence[Removal]) -> Removal:
    def execute() -> None:
        for removal in removals:
            removal.execute()

    names = " and ".join(removal.name for removal in removals)
    files = tuple(file for removal in removals for file in removal.files)
    return Removal(names, files, sum(removal.freed for removal in removals), execute)


def _unfinished(repository: str) -> Removal | None:
    """What interrupted downloads of a repository left."""
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    locks = {
        part: cache / ".locks" / part.parts[-3] / part.name.replace(UNFINISHED, ".lock")
        for cache in [hugging_face_cache()]
        for part in sorted(cache.glob(f"models--*--*/blobs/*{UNFINISHED}"))
        if repository_of(part.parts[-3]).lower() == repository.lower()
    }
    own = models_dir() / repository
    locks |= dict.fromkeys(sorted(own.glob(".*.part")), own / ".lock")
    if not locks:
        return None

    def execute() -> None:
        for part, lock in locks.items():
            try:
                with WeakFileLock(lock, timeout=0.2):
                    part.unlink(missing_ok=True)
            except Timeout:
                raise LocalLLMError(f"{repository} is being downloaded") from None

    freed = sum(getattr(part.stat(), "st_blocks", 0) * 512 for part in locks)
    return Removal(f"unfinished {repository}", tuple(locks), freed, execute)


def _checkpoint(repository: str) -> Removal | None:
    """The checkpoint in the cache, where that has nothing else of the repository."""
    from huggingface_hub import scan_cache_dir

    cache = hugging_face_cache()
    if not cache.is_dir():
        return None
    scan = scan_cache_dir(cache)
    found = _scanned(scan, repository)
    files = [file for revision in found.revisions for file in revision.files] if found else []
    kinds = {file.file_path.suffix for file in files}
    if found is None or ".safetensors" not in kinds or ".gguf" in kinds:
        return None
    strategy = scan.delete_revisions(*(revision.commit_hash for revision in found.revisions))
    paths = tuple(sorted(file.file_path for file in files))
    name = f"the checkpoint of {found.repo_id}"
    return Removal(name, paths, strategy.expected_freed_size, strategy.execute)


def _scanned(scan: HFCacheInfo, repository: str) -> CachedRepoInfo | None:
    """A repository of models in a scanned cache; one of data may have the same name."""
    for found in scan.repos:
        if (found.repo_type, found.repo_id.lower()) == ("model", repository.lower()):
            return found
    return None


def _from_own_folder(found: CachedFile) -> Removal:
    def execute() -> None:
        for path in (found.path, receipt_file(found.path), found.path.with_name(".lock")):
            path.unlink(missing_ok=True)
        for folder in (found.path.parent, found.path.parent.parent):
            if not any(folder.iterdir()):
                folder.rmdir()

    model = Removal(found.name, (found.path,), found.bytes, execute)
    others = [f for f in cached_files() if f.repository == found.repository and f != found]
    checkpoint = None if others else _checkpoint(found.repository)
    return model if checkpoint is None else _together([model, checkpoint])


def _from_cache(found: CachedFile) -> Removal:
    from huggingface_hub import scan_cache_dir

    cache = hugging_face_cache()
    scan = scan_cache_dir(cache)
    repository = _scanned(scan, found.repository)
    if repository is None:
        reasons = [str(w) for w in scan.warnings if found.path.parts[len(cache.parts)] in str(w)]
        raise LocalLLMError(f"{found.repository}: the cache is damaged: {'; '.join(reasons)}")
    shards = {path.relative_to(_snapshot(found)) for path in found.shards}
    files = [
        file
        for revision in repository.revisions
        for file in revision.files
        if file.file_path.relative_to(revision.snapshot_path) in shards
    ]
    strategy = scan.delete_files(*files)

    def execute() -> None:
        strategy.execute()
        rest = scan_cache_dir(cache)
        empty = [
            revision.commit_hash
            for one in rest.repos
            if one.repo_id == found.repository
            for revision in one.revisions
            if not revision.files
        ]
        if empty:
            rest.delete_revisions(*empty).execute()

    paths = tuple(sorted(file.file_path for file in files))
    return Removal(found.name, paths, strategy.expected_freed_size, execute)


def _snapshot(found: CachedFile) -> Path:
    """The folder that holds a cached repository's files at one revision."""
    return found.path.parents[len(Path(found.file).parts) - 1]
