"""From the MODEL argument to a file on this machine."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.hub.catalog import load_catalog
from localllm.hub.folders import expanded, hugging_face_cache

BUNDLED = "tiny-chat"
DEFAULT_QUANTISATION = "Q4_K_M"

_PREFIXES = (
    "https://huggingface.co/",
    "http://huggingface.co/",
    "huggingface.co/",
    "hf.co/",
    "hf://",
)
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_QUANTISATION = re.compile(
    r"(?<![A-Z0-9])((?:UD-)?(?:I?Q\d[_-](?:K[_-](?:XXS|XS|XL|S|M|L)|K|XXS|XS|NL|S|M|\d)|TQ\d_\d"
    r"|MXFP4(?:_MOE)?|BF16|F16|F32))(?![A-Z0-9_])",
    re.IGNORECASE,
)
_LATER_SHARD = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True)
class LocalModel:
    """A model file on this machine; `name` is what the user may call it."""

    name: str
    path: Path

    @property
    def bundled(self) -> bool:
        """Whether this is the demonstration model that comes with the program."""
        return self.name == BUNDLED


@dataclass(frozen=True)
class CachedFile:
    """One GGUF model in the Hugging Face cache; of a split model, the first shard."""

    repository: str
    quantisation: str
    path: Path

    @property
    def name(self) -> str:
        """`user/repo:QUANT`, the name that finds this file again."""
        return f"{self.repository}:{self.quantisation}" if self.quantisation else self.repository

    @property
    def shards(self) -> list[Path]:
        """Every file of the model: one, or all shards that are there."""
        stem, found, rest = self.path.name.partition("-00001-of-")
        return sorted(self.path.parent.glob(f"{stem}-?????-of-{rest}")) if found else [self.path]


def resolve(name: str | None) -> LocalModel:
    """Find the file that MODEL names: a path, an alias, `user/repo[:QUANT]`, or none (bundled).

    Raises:
        LocalLLMError: one line that says what is missing, with close matches.
    """
    if name is None or name.lower() == BUNDLED:
        return LocalModel(BUNDLED, _bundled_file())
    path = expanded(name)
    if path.is_file():
        return LocalModel(path.stem, path)
    plain, wanted = _split_quantisation(_without_prefix(name))
    if (known := load_catalog().get(plain.lower())) is not None:
        return _from_cache(name, known.repository, wanted, known.quantisation)
    if path.is_dir():
        raise LocalLLMError(f"{name} is a directory, not a GGUF file", _files_in(path))
    if _looks_like_path(name):
        raise LocalLLMError(f"no such file: {name}", _near_files(path))
    if _REPOSITORY.fullmatch(plain):
        return _from_cache(name, plain, wanted, DEFAULT_QUANTISATION)
    raise LocalLLMError(f"no model or file called {name!r}", _near_names(plain))


def cached_files() -> Iterator[CachedFile]:
    """Every GGUF model in the Hugging Face cache, by repository, the current revision first."""
    root = hugging_face_cache()
    for folder in sorted(root.glob("models--*--*")):
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        seen: set[str] = set()
        for snapshot in _snapshots(folder):
            for path in sorted(snapshot.rglob("*.gguf")):
                relative = str(path.relative_to(snapshot))
                if relative in seen or _LATER_SHARD.search(path.name) or not path.exists():
                    continue
                if path.name.lower().startswith("mmproj"):
                    continue  # the vision half of a model, not one of its own
                seen.add(relative)
                yield CachedFile(repository, quantisation_of(relative), path)


def quantisation_of(filename: str) -> str:
    """The quantisation that a file's name states, in capitals; empty where it states none."""
    found = _QUANTISATION.findall(filename)
    if not found:
        return ""
    name = str(found[-1]).upper()
    dynamic = "UD-" if name.startswith("UD-") else ""
    return dynamic + name.removeprefix("UD-").replace("-", "_")


def _from_cache(name: str, repository: str, wanted: str, default: str) -> LocalModel:
    here = [f for f in cached_files() if f.repository.lower() == repository.lower()]
    if not here:
        raise LocalLLMError(
            f"{name} is not here: no GGUF file of {repository} in {hugging_face_cache()}",
            "downloading (`localllm pull`) comes in a later version; `hf download` puts it there",
        )
    quantisation = (wanted or default).upper()
    exact = [f for f in here if f.quantisation == quantisation]
    dynamic = [f for f in here if f.quantisation == f"UD-{quantisation}"]
    if exact or dynamic:
        file = (exact or dynamic)[0]
        return LocalModel(file.name, file.path)
    if wanted:
        present = ", ".join(dict.fromkeys(f.quantisation or f.path.name for f in here))
        raise LocalLLMError(f"{repository} is here, but not as {wanted}", f"there is {present}")
    return LocalModel(here[0].name, here[0].path)


def _snapshots(folder: Path) -> list[Path]:
    """Revisions of a cached repository: the one `main` points at, then the newest."""
    snapshots = [p for p in (folder / "snapshots").glob("*") if p.is_dir()]
    snapshots.sort(key=lambda p: p.stat().st_mtime, reverse=True)
    try:
        current = (folder / "refs" / "main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return snapshots
    return sorted(snapshots, key=lambda p: p.name != current)


def _bundled_file() -> Path:
    path = Path(__file__).resolve().parent.parent / "assets" / f"{BUNDLED}.gguf"
    if not path.is_file():
        raise LocalLLMError(f"the bundled model is missing: {path}", "reinstall, or name a model")
    return path


def _without_prefix(name: str) -> str:
    for prefix in _PREFIXES:
        if name.lower().startswith(prefix):
            return name[len(prefix) :]
    return name


def _split_quantisation(name: str) -> tuple[str, str]:
    plain, colon, quantisation = name.rpartition(":")
    return (plain.rstrip("/"), quantisation) if colon else (name.rstrip("/"), "")


def _looks_like_path(name: str) -> bool:
    return (
        name.lower().endswith(".gguf")
        or name.startswith(("/", "./", "../", "~", "\\"))
        or "\\" in name
        or Path(name).is_absolute()
    )


def _files_in(folder: Path) -> str:
    found = sorted(p.name for p in folder.glob("*.gguf"))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"it holds {', '.join(found[:3])}{more}"
    return "give the path of a .gguf file"


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} is not there either"
    siblings = [p.name for p in path.parent.glob("*.gguf")]
    return _did_you_mean(difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.75))


def _near_names(name: str) -> str:
    known = [BUNDLED, *load_catalog(), *{f.repository for f in cached_files()}]
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return _did_you_mean(close) or "`localllm list` shows the names it knows"


def _did_you_mean(names: list[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""
