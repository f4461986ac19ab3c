"""Files of a repository on their way into the Hugging Face cache: whole, or not there at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import TypeVar

from filelock import Timeout
from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from localllm.files import replacing
from localllm.hub.asking import MOST_TRIES, Patience, patiently
from localllm.hub.listing import RemoteFile, list_repository
from localllm.hub.partial import PartialFile, require_room
from localllm.hub.references import COMMIT, Reference
from localllm.hub.store import UNFINISHED
from localllm.hub.transfer import Download, Watch, damaged, fetch, unwritten, verify

T = TypeVar("T")


@dataclass(frozen=True)
class PulledFile:
    """A file that is here, whole."""

    path: Path
    bytes: int
    sha256: str | None


class Snapshot:
    """A repository at one revision, and what of it is brought into the cache.

    Args:
        wanted: the repository and its revision.
        watch: told how it goes.

    Raises:
        LocalLLMError: of every method: what went wrong, in one line.
    """

    def __init__(self, wanted: Reference, watch: Watch) -> None:
        self._wanted = wanted
        self._watch = watch
        self.repository = self._ask(lambda: list_repository(wanted))
        name = repo_folder_name(repo_id=self.repository.name, repo_type="model")
        self._cache = Path(constants.HF_HUB_CACHE)
        self._folder = self._cache / name
        self._locks = self._cache / ".locks" / name

    def pull(self, files: Sequence[RemoteFile]) -> list[PulledFile]:
        """Fetch files, verify them, and only then give all of them their names in the cache."""
        large = [file for file in files if file.sha256 is not None]
        try:
            self._fetch(large)
            # The first file of a split model is what shows it to others: it comes last.
            paths = {file.path: self._link(file) for file in reversed(files)}
            self._point_revision()
        except OSError as error:
            raise unwritten(error, self._folder) from error
        return [PulledFile(paths[file.path], file.bytes, file.sha256) for file in files]

    def _fetch(self, files: Sequence[RemoteFile]) -> None:
        """Bring files into the `blobs` of the cache, under the names of their hashes."""
        blobs = self._folder / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        # In one order everywhere, so that two pulls never wait for each other.
        unique = {str(file.sha256): file for file in files}
        with ExitStack() as held:
            for hash in sorted(unique):
                self._lock(held, hash)
            missing = {hash: f for hash, f in unique.items() if not (blobs / hash).exists()}
            sizes = {_part(blobs, hash): file.bytes for hash, file in missing.items()}
            require_room(blobs, sizes, "HF_HUB_CACHE names another folder")
            for file in files:
                if file.sha256 not in missing:
                    self._watch.moved(file.path, file.bytes, file.bytes)
            downloads = {
                hash: Download(
                    file.path,
                    hf_hub_url(
                        self.repository.name,
                        file.path,
                        revision=self.repository.revision,
                        endpoint=constants.ENDPOINT,
                    ),
                    held.enter_context(PartialFile(_part(blobs, hash), file.bytes)),
                )
                for hash, file in missing.items()
            }
            fetch(self.repository.name, list(downloads.values()), build_hf_headers(), self._watch)
            wrong = []
            for hash, download in downloads.items():
                if verify(download, hash, self._watch):
                    download.part.finish(blobs / hash)
                else:
                    wrong.append(download.name)
            if wrong:
                raise damaged(self.repository.name, ", ".join(wrong))

    def _link(self, file: RemoteFile) -> Path:
        """Give a file its name in the snapshot; a small one is downloaded first."""

        def link() -> str:
            return hf_hub_download(
                self.repository.name,
                file.path,
                revision=self.repository.revision,
                endpoint=constants.ENDPOINT,
                cache_dir=self._cache,
            )

        path = Path(self._ask(link, most=1))  # it tries again by itself
        if file.sha256 is None:
            self._verify_plain(path)
        elif path.is_symlink() and path.resolve().name != file.sha256:
            path.unlink()  # of bytes that the library has fetched under another name
            raise damaged(self.repository.name, file.path)
        return path

    def _verify_plain(self, path: Path) -> None:
        """Compare a file that git itself keeps with git's name for it, which is its blob's name."""
        data = path.read_bytes()
        blob = path.resolve()
        named = blob.name
        if len(named) == 40 and sha1(b"blob %d\0" % len(data) + data).hexdigest() != named:
            path.unlink()
            blob.unlink(missing_ok=True)
            raise damaged(self.repository.name, path.name)

    def _point_revision(self) -> None:
        """Note which commit a branch stands at, as huggingface_hub does."""
        if COMMIT.fullmatch(self._wanted.revision):
            return
        reference = self._folder / "refs" / self._wanted.revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        with replacing(reference) as beside:
            beside.write_text(self.repository.revision, encoding="ascii")

    def _lock(self, held: ExitStack, hash: str) -> None:
        """Keep others from fetching a file, with the lock that huggingface_hub takes for it."""
        self._locks.mkdir(parents=True, exist_ok=True)
        path = self._locks / f"{hash}.lock"
        try:
            held.enter_context(WeakFileLock(path, timeout=0.2))
        except Timeout:
            self._watch.say("another program is downloading this: waiting for it")
            held.enter_context(WeakFileLock(path))

    def _ask(self, call: Callable[[], T], most: int = MOST_TRIES) -> T:
        return patiently(call, Patience(self._wanted.repository, self._watch.say, most=most))


def _part(blobs: Path, hash: str) -> Path:
    return blobs / f"{hash}{UNFINISHED}"
