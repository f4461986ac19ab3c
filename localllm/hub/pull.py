"""From a NAME to a model on this machine: what is chosen, fetched, and converted where need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import WeakFileLock, disable_progress_bars
from huggingface_hub.utils.logging import ERROR, set_verbosity

from localllm.errors import LocalLLMError, UsageError
from localllm.hub.address import fetch_address
from localllm.hub.folders import models_dir
from localllm.hub.listing import RemoteModel, choose
from localllm.hub.names import downloadable, find_here
from localllm.hub.partial import sha256_of
from localllm.hub.receipts import Receipt, read_receipt, write_receipt
from localllm.hub.references import Address, Reference, quantisation_of
from localllm.hub.snapshot import PulledFile, Snapshot
from localllm.hub.store import origin_of, shard_count
from localllm.hub.transfer import Watch, unwritten

Pick = Callable[[str, Sequence[RemoteModel]], RemoteModel]
Convert = Callable[[Path, Path, str], None]

_CONVERTIBLE = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Pulled:
    """A model that is here now.

    Attributes:
        name: what finds it again.
        path: of the file to open.
        files: all its files.
        repository: where it came from: `user/repo`, or an address.
        revision: the commit; for an address the ETag, which may be empty.
    """

    name: str
    path: Path
    files: tuple[PulledFile, ...]
    repository: str
    revision: str

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files)


def pull(
    wanted: Reference | Address,
    default: str,
    pick: Pick,
    convert: Convert,
    watch: Watch,
) -> Pulled:
    """Bring a model to this machine; what is here already is not asked for again.

    Args:
        wanted: what the user asked for.
        default: the quantisation to take where none is asked for.
        pick: asked for one of several where that is not enough; told the repository.
        convert: makes a GGUF file of a checkpoint's folder; given both paths and the type.
        watch: told how it goes.

    Raises:
        LocalLLMError: what went wrong, in one line; of an unfinished model, nothing is in sight.
    """
    disable_progress_bars()  # what the library has to say is said here
    set_verbosity(ERROR)
    if isinstance(wanted, Address):
        return _pull_address(wanted, watch)
    snapshot = Snapshot(wanted, watch)
    models = snapshot.repository.models
    if not models:
        return _pull_checkpoint(snapshot, wanted, convert, watch)
    name = snapshot.repository.name
    model = choose(models, wanted, default) or pick(name, models)
    if not model.whole:
        there = f"{len(model.files)} of {shard_count(model.files[0].path)} files are there"
        raise LocalLLMError(f"{name}: {model.label} is not whole: {there}", "its upload may go on")
    files = snapshot.pull(model.files)
    named = _named(name, model.quantisation)
    return Pulled(named, files[0].path, tuple(files), name, snapshot.repository.revision)


def already_here(name: str) -> Pulled:
    """What a pull of this NAME would find here; asks no server.

    Raises:
        NotHereError: it is not here.
        UsageError: the name is none of a model to download.
    """
    wanted, default = downloadable(name)
    found = find_here(name, wanted, default)
    origins = {path: origin_of(path) for path in found.shards}
    files = tuple(
        PulledFile(path, path.stat().st_size, origin.sha256 if origin else None)
        for path, origin in origins.items()
    )
    origin = origins[found.path]
    source = origin.repository if origin else found.repository
    return Pulled(found.name, found.path, files, source, origin.revision if origin else "")


def _pull_address(wanted: Address, watch: Watch) -> Pulled:
    path, receipt = fetch_address(wanted, watch)
    name = _named(wanted.repository, quantisation_of(wanted.file))
    files = (PulledFile(path, receipt.bytes, receipt.sha256),)
    return Pulled(name, path, files, receipt.source, receipt.revision)


def _pull_checkpoint(
    snapshot: Snapshot, wanted: Reference, convert: Convert, watch: Watch
) -> Pulled:
    """Fetch a checkpoint of transformers, and make a GGUF file of it in a folder of ours."""
    name, revision = snapshot.repository.name, snapshot.repository.revision
    files = snapshot.repository.checkpoint
    kind = wanted.wanted.upper() or _CONVERTIBLE[0]
    if not files:
        raise LocalLLMError(f"{name} holds no model: neither GGUF files nor safetensors")
    if kind not in _CONVERTIBLE:
        hint = f"`localllm pull {name}` makes an F16 of it, `localllm quantize` others of that"
        raise UsageError(f"{name} has no {wanted.wanted}, but safetensors", hint)
    folder = models_dir() / name
    output = folder / f"{name.partition('/')[2]}-{kind}.gguf"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / ".lock"):
            made = read_receipt(output)
            if made is None or (made.source, made.revision) != (name, revision):
                here = snapshot.pull(files)
                at = next(i for i, file in enumerate(files) if file.path == "config.json")
                watch.say("converting to GGUF")
                convert(here[at].path.parent, output, kind)
                made = Receipt(name, revision, output.stat().st_size, sha256_of(output))
                write_receipt(output, made)
    except OSError as error:
        raise unwritten(error, folder) from error
    pulled = PulledFile(output, made.bytes, made.sha256)
    return Pulled(_named(name, kind), output, (pulled,), name, revision)


def _named(repository: str, quantisation: str) -> str:
    return f"{repository}:{quantisation}" if quantisation else repository
