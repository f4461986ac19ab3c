"""Fetching the missing bytes of files, over several connections at once."""

from __future__ import annotations

import errno
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, hf_raise_for_status

from localllm.errors import LocalLLMError
from localllm.hub.asking import MOST_TRIES, Patience, explained
from localllm.hub.partial import PartialFile

_CONNECTIONS = 8
_TICK = 0.1  # seconds between two looks at how far it is
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Watch(Protocol):
    """Who is told how a download goes; called from one thread."""

    def say(self, text: str) -> None:
        """Something is waited for, in one line."""

    def moved(self, file: str, done: int, total: int) -> None:
        """So many of a file's bytes are here."""

    def checked(self, file: str, done: int, total: int) -> None:
        """So many of a file's bytes were read again, to verify them."""


@dataclass(frozen=True)
class Download:
    """One file on its way.

    Attributes:
        name: of the file.
        url: where its bytes are.
        part: where they go.
    """

    name: str
    url: str
    part: PartialFile


class _NoRangesError(Exception):
    """The server sends a file from its beginning only."""


def fetch(
    what: str, downloads: Sequence[Download], headers: Mapping[str, str], watch: Watch
) -> None:
    """Fetch what files lack; whatever ends it, what was fetched is kept.

    Args:
        what: the repository or the address, as errors name it.
        downloads: the files; the segments that they lack are fetched beside each other.
        headers: of each request.
        watch: told how it goes.

    Raises:
        LocalLLMError: the server does not give it.
        OSError: the disk does not take it.
    """
    for _ in range(MOST_TRIES):
        try:
            return _fetch(what, downloads, headers, watch)
        except _NoRangesError:
            for download in downloads:
                if download.part.missing:
                    download.part.restart()
    raise LocalLLMError(f"{what}: the connection breaks, and its server resumes no download")


def verify(download: Download, sha256: str, watch: Watch) -> bool:
    """Whether a fetched file has the hash that was promised; it is removed where it has not."""
    part = download.part
    found = part.sha256(lambda done: watch.checked(download.name, done, part.size))
    if found != sha256:
        part.remove()
    return found == sha256


def damaged(what: str, file: str) -> LocalLLMError:
    """The error for a file that is not what the server promised."""
    return LocalLLMError(
        f"{what}: {file} arrived damaged: its hash is not the one that the server states",
        "it was removed; pull again, and if that does not help, blame the proxy or the mirror",
    )


def unwritten(error: OSError, folder: Path) -> LocalLLMError:
    """The error for a folder that does not take what was fetched."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "what was downloaded is kept: make room, and pull again" if full else ""
    return LocalLLMError(f"{error.filename or folder}: {error.strerror or error}", hint)


def _fetch(
    what: str, downloads: Sequence[Download], headers: Mapping[str, str], watch: Watch
) -> None:
    work = deque((download, segment) for download in downloads for segment in download.part.missing)
    stopped = threading.Event()
    failures: list[BaseException] = []
    said: deque[str] = deque(maxlen=1)

    def run() -> None:
        try:
            while not stopped.is_set():
                download, segment = work.popleft()
                patience = Patience(what, said.append, stopped)
                _fetch_segment(download, segment, headers, patience, stopped)
        except IndexError:
            pass  # nothing is left
        except BaseException as error:
            failures.append(error)
            stopped.set()

    # They may sit in a read when the program is interrupted, which does not wait for them.
    threads = [
        threading.Thread(target=run, daemon=True) for _ in range(min(len(work), _CONNECTIONS))
    ]
    for thread in threads:
        thread.start()
    try:
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(_TICK)
            while said:
                watch.say(said.popleft())
            for download in downloads:
                watch.moved(download.name, download.part.done, download.part.size)
    finally:
        stopped.set()
    if failures:
        _raise(failures[0], what)


def _fetch_segment(
    download: Download,
    segment: int,
    headers: Mapping[str, str],
    patience: Patience,
    stopped: threading.Event,
) -> None:
    """Fetch what a segment lacks, again and again where the connection breaks."""
    part = download.part
    while segment in part.missing and not stopped.is_set():
        before = part.counts[segment]
        try:
            _read(download, segment, headers, stopped)
        except (httpx2.TransportError, HfHubHTTPError) as error:
            if part.counts[segment] > before:
                patience.refresh()
            patience.wait(error)


def _read(
    download: Download, segment: int, headers: Mapping[str, str], stopped: threading.Event
) -> None:
    """Ask once for the rest of a segment, and write what comes."""
    part = download.part
    first, end = part.place(segment), part.starts[segment + 1]
    asked = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={first}-{end - 1}"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", download.url, headers=asked, timeout=timeout) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:
            if first or len(part.counts) > 1:
                raise _NoRangesError
        else:
            sent = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != first or sent[3] not in ("*", str(part.size)):
                raise LocalLLMError(
                    f"{download.name}: {response.url.host} sends other bytes than it was asked for",
                    "a proxy or a mirror is at fault",
                )
        for chunk in response.iter_bytes():
            if stopped.is_set():
                return
            part.write(segment, chunk)
            if segment not in part.missing:
                return
    if segment in part.missing:
        raise httpx2.RemoteProtocolError("the answer ended early", request=response.request)


def _raise(error: BaseException, what: str) -> None:
    if isinstance(error, LocalLLMError | _NoRangesError):
        raise error
    if isinstance(error, OSError) and not isinstance(error, httpx2.HTTPError):
        raise error
    if isinstance(error, Exception):
        raise explained(error, what) from error
    raise error
