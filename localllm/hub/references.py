"""What a NAME asks for: a repository of the hub, one quantisation or file of it, or an address."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from localllm.errors import UsageError

_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_REVISION = re.compile(r"[\w-][\w./-]*")
_QUANTISATION = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:I?Q\d[_-](?:K[_-](?:XXS|XS|XL|S|M|L)|K|XXS|XS|NL|S|M|\d)|TQ\d_\d"
    r"|MXFP4(?:_MOE)?|BF16|F16|F32))(?![A-Z0-9_])",
    re.IGNORECASE,
)

COMMIT = re.compile(r"[0-9a-f]{40}")


class Quantised(Protocol):
    """A model with the quantisation that its file's name states; see `quantisation_of`."""

    @property
    def quantisation(self) -> str:
        """In capitals; empty where the name states none."""


M = TypeVar("M", bound=Quantised)


@dataclass(frozen=True)
class Reference:
    """A repository of the hub, and what of it.

    Attributes:
        repository: `user/repo`.
        wanted: a quantisation or a file's name, as it stands behind the colon; empty: none.
        file: the path of one file in the repository; empty: none.
        revision: a branch, a tag or a commit.
    """

    repository: str
    wanted: str = ""
    file: str = ""
    revision: str = "main"


@dataclass(frozen=True)
class Address:
    """A GGUF file on some other server."""

    url: str

    @property
    def file(self) -> str:
        """The file's own name."""
        return unquote(urlsplit(self.url).path).rpartition("/")[2]

    @property
    def repository(self) -> str:
        """What the model is filed under: `host/name`."""
        host = urlsplit(self.url).netloc.rpartition("@")[2].replace(":", "_").lower()
        return f"{host}/{self.file.removesuffix('.gguf')}"


def parse(name: str) -> Reference | Address | None:
    """What a NAME asks for; None where it has the form of none of them.

    `user/repo`, `user/repo:QUANT`, the same after `hf.co/`, `hf://` or `https://huggingface.co/`,
    a page or a download link of a file there, or the address of a .gguf file elsewhere.

    Raises:
        UsageError: an address of something that is not a GGUF file.
    """
    address = urlsplit(name) if re.match(r"https?://", name, re.IGNORECASE) else None
    if address is not None and not _is_hub(address.netloc):
        found = Address(name)
        stem = found.file.removesuffix(".gguf")
        if stem == found.file or not re.fullmatch(r"[\w.-]*\w[\w.-]*", stem):
            raise UsageError(f"{name}: not the address of a .gguf file")
        return found
    if address is not None:
        rest = unquote(address.path).strip("/")
    elif name.lower().startswith("hf://"):
        rest = name[len("hf://") :].removeprefix("models/")
    else:
        host, slash, after = name.partition("/")
        rest = after if slash and host.lower() in _HOSTS else name
    return _of_hub(rest.rstrip("/"))


def _of_hub(text: str) -> Reference | None:
    text, colon, wanted = text.rpartition(":") if ":" in text else (text, "", "")
    user, _, rest = text.partition("/")
    repository, _, path = rest.partition("/")
    repository, _, revision = repository.partition("@")
    repository = f"{user}/{repository}"
    action, _, after = path.partition("/")
    if action in ("resolve", "blob", "raw", "tree") and after:
        revision, _, path = after.partition("/")
    if not _REPOSITORY.fullmatch(repository) or (colon and not wanted):
        return None
    if path and not path.lower().endswith(".gguf"):
        return None
    if revision and (not _REVISION.fullmatch(revision) or ".." in revision):
        return None
    return Reference(repository, wanted, path, revision or "main")


def _is_hub(host: str) -> bool:
    from huggingface_hub.constants import ENDPOINT

    return host.lower() in _HOSTS | {urlsplit(ENDPOINT).netloc.lower()}


def quantisation_of(filename: str) -> str:
    """The quantisation that a file's name states, in capitals; empty where it states none."""
    found = _QUANTISATION.findall(filename)
    if not found:
        return ""
    name = str(found[-1]).upper()
    dynamic = "UD-" if name.startswith("UD-") else ""
    return dynamic + name.removeprefix("UD-").replace("-", "_")


def of_quantisation(models: Sequence[M], wanted: str) -> M | None:
    """The first model of a quantisation, else of its dynamic variety; None: there is none."""
    for name in (wanted.upper(), f"UD-{wanted.upper()}") if wanted else ():
        for model in models:
            if model.quantisation == name:
                return model
    return None
