"""Fetching a model from a server that is no hub, into a folder of our own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub.utils import WeakFileLock, get_session, hf_raise_for_status

from localllm.errors import LocalLLMError, ModelFileError
from localllm.gguf import GGUFFile
from localllm.hub.asking import Patience, patiently
from localllm.hub.folders import models_dir
from localllm.hub.partial import PartialFile, require_room
from localllm.hub.receipts import Receipt, read_receipt, write_receipt
from localllm.hub.references import Address
from localllm.hub.transfer import Download, Watch, damaged, fetch, unwritten


def fetch_address(wanted: Address, watch: Watch) -> tuple[Path, Receipt]:
    """The model from an address, which is fetched where it is not here; no hash is promised for it.

    Raises:
        LocalLLMError: the server or the disk does not do its part, or it is no GGUF file.
    """
    folder = models_dir() / wanted.repository
    target = folder / wanted.file
    size, etag = _describe(wanted.url, watch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / ".lock"):
            here = read_receipt(target)
            if here is None or (here.source, here.revision, here.bytes) != (wanted.url, etag, size):
                here = Receipt(wanted.url, etag, size, _fetch(wanted, size, etag, target, watch))
                write_receipt(target, here)
    except OSError as error:
        raise unwritten(error, folder) from error
    return target, here


def _fetch(wanted: Address, size: int, etag: str, target: Path, watch: Watch) -> str:
    """Fetch the file and give it its name; its hash."""
    # Another file at the same address does not go on with the bytes of this one.
    mark = hashlib.sha256(f"{wanted.url} {etag}".encode()).hexdigest()[:16]
    part = target.with_name(f".{mark}.part")
    require_room(target.parent, {part: size}, "XDG_DATA_HOME names another folder")
    with PartialFile(part, size) as file:
        fetch(wanted.url, [Download(wanted.file, wanted.url, file)], {}, watch)
        sha256 = file.sha256(lambda done: watch.checked(wanted.file, done, size))
        whole = part.with_suffix(".whole")
        file.finish(whole)
    try:
        GGUFFile.open(whole)
    except ModelFileError as error:
        whole.unlink()
        raise damaged(wanted.url, wanted.file) from error
    whole.replace(target)
    return sha256


def _describe(url: str, watch: Watch) -> tuple[int, str]:
    """Bytes of the file at an address, and its ETag."""
    headers = {"Accept-Encoding": "identity", "Range": "bytes=0-0"}

    def ask() -> tuple[int, str]:
        with get_session().stream("GET", url, headers=headers, timeout=30) as response:
            hf_raise_for_status(response)
            size = response.headers.get("Content-Length", "")
            if response.status_code == 206:
                size = response.headers.get("Content-Range", "").rpartition("/")[2]
            if not (size.isascii() and size.isdecimal() and len(size) < 16):
                raise LocalLLMError(f"{url}: the server does not say how long the file is")
            return int(size), response.headers.get("ETag", "").strip('"')

    return patiently(ask, Patience(url, watch.say))
