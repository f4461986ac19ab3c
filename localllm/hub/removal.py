"""Removing a model from this machine: its files, and what of the cache nothing else uses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import LocalLLMError, UsageError
from localllm.hub.folders import expanded, hugging_face_cache, models_dir
from localllm.hub.names import NotHereError, downloadable, find_here, follow_aliases
from localllm.hub.receipts import receipt_file
from localllm.hub.references import Reference
from localllm.hub.store import BUNDLED, UNFINISHED, CachedFile, cached_files, repository_of


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
    elif (unfinished := _unfinished(target)) is not None:
        return unfinished
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


def _unfinished(name: str) -> Removal | None:
    """What interrupted downloads left of a repository of which no model is here; None: nothing."""
    wanted, default = downloadable(name)
    if isinstance(wanted, Reference) and (wanted.wanted or wanted.file):
        return None  # whose they are cannot be told
    with suppress(NotHereError):
        find_here(name, wanted, default)
        return None
    from filelock import Timeout
    from huggingface_hub.utils import WeakFileLock

    repository = wanted.repository.lower()
    locks = {
        part: cache / ".locks" / part.parts[-3] / part.name.replace(UNFINISHED, ".lock")
        for cache in [hugging_face_cache()]
        for part in sorted(cache.glob(f"models--*--*/blobs/*{UNFINISHED}"))
        if repository_of(part.parts[-3]).lower() == repository
    }
    own = models_dir() / wanted.repository
    locks |= dict.fromkeys(sorted(own.glob(".*.part")), own / ".lock")
    if not locks:
        return None

    def execute() -> None:
        for part, lock in locks.items():
            try:
                with WeakFileLock(lock, timeout=0.2):
                    part.unlink(missing_ok=True)
            except Timeout:
                raise LocalLLMError(f"{wanted.repository} is being downloaded") from None

    freed = sum(getattr(part.stat(), "st_blocks", 0) * 512 for part in locks)
    return Removal(f"unfinished {wanted.repository}", tuple(locks), freed, execute)


def _from_own_folder(found: CachedFile) -> Removal:
    def execute() -> None:
        for path in (found.path, receipt_file(found.path), found.path.with_name(".lock")):
            path.unlink(missing_ok=True)
        for folder in (found.path.parent, found.path.parent.parent):
            if not any(folder.iterdir()):
                folder.rmdir()

    return Removal(found.name, (found.path,), found.bytes, execute)


def _from_cache(found: CachedFile) -> Removal:
    from huggingface_hub import scan_cache_dir

    cache = hugging_face_cache()
    scan = scan_cache_dir(cache)
    repository = next((r for r in scan.repos if r.repo_id == found.repository), None)
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
