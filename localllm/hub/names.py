"""From the MODEL argument to a file on this machine."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from localllm.errors import LocalLLMError, UsageError
from localllm.hub.folders import expanded
from localllm.hub.references import Address, Reference, of_quantisation, parse
from localllm.hub.store import BUNDLED, CachedFile, cached_files
from localllm.hub.user_models import Preset, known_models, user_models

DEFAULT_QUANTISATION = "Q4_K_M"

_MOST_ALIASES = 8  # one behind the other


@dataclass(frozen=True)
class LocalModel:
    """A model file on this machine.

    Attributes:
        name: what the user may call it.
        path: of the file.
        preset: settings that its alias brings with it, below flags and environment.
    """

    name: str
    path: Path
    preset: Preset = field(default_factory=dict)

    @property
    def bundled(self) -> bool:
        """Whether this is the demonstration model that comes with the program."""
        return self.name == BUNDLED


class NotHereError(LocalLLMError):
    """A model has a name, but is not on this machine.

    Attributes:
        name: as the user gave it, or as aliases led to it.
    """

    def __init__(self, name: str, message: str, hint: str = "") -> None:
        command = f"`localllm pull {name}` downloads it"
        super().__init__(message, f"{hint}; {command}" if hint else command)
        self.name = name


def resolve(name: str | None) -> LocalModel:
    """Find the file that MODEL names: a path, an alias, `user/repo[:QUANT]`, or none (bundled).

    Raises:
        NotHereError: the name is good, but the model has to be downloaded first.
        LocalLLMError: one line that says what is missing, with close matches.
    """
    alias = name
    name, preset = follow_aliases(name)
    found = _resolve(name)
    called = found.name if alias == name else str(alias).lower()
    return LocalModel(called, found.path, preset)


def _resolve(name: str | None) -> LocalModel:
    if name is None or name.lower() == BUNDLED:
        return LocalModel(BUNDLED, _bundled_file())
    path = expanded(name)
    if path.is_file():
        return LocalModel(path.stem, path)
    wanted, default = asked_for(name)
    if name.partition(":")[0].lower() not in known_models() and "://" not in name:
        if path.is_dir():
            raise LocalLLMError(f"{name} is a directory, not a GGUF file", _files_in(path, name))
        if _looks_like_path(name):
            raise LocalLLMError(f"no such file: {name}", _near_files(path))
    if wanted is None:
        raise LocalLLMError(f"no model or file called {name!r}", _near_names(name))
    found = find_here(name, wanted, default)
    return LocalModel(found.name, found.path)


def follow_aliases(name: str | None) -> tuple[str | None, Preset]:
    """The name behind the user's aliases, and what their presets set, the outermost first.

    Raises:
        LocalLLMError: aliases stand for each other in a ring.
    """
    preset: Preset = {}
    for _ in range(_MOST_ALIASES):
        own = None if name is None else user_models().get(name.lower())
        if own is None:
            return name, preset
        name, preset = own.target, {**own.preset, **preset}
    raise LocalLLMError(f"the alias {name} leads to itself", "`localllm alias` lists them")


def asked_for(name: str) -> tuple[Reference | Address | None, str]:
    """What a NAME asks a hub for, and the quantisation where it asks for none.

    Raises:
        UsageError: an address of something that is not a GGUF file.
    """
    plain, _, wanted = name.partition(":")
    if (known := known_models().get(plain.lower())) is not None:
        return Reference(known.repository, wanted), known.quantisation
    return parse(name), DEFAULT_QUANTISATION


def downloadable(name: str) -> tuple[Reference | Address, str]:
    """What a NAME or alias asks a hub for, and the quantisation where it asks for none.

    Raises:
        UsageError: it is the name of nothing that a hub has.
    """
    target, _ = follow_aliases(name)
    wanted, default = asked_for(target or name)
    if wanted is None:
        hint = "user/repo, user/repo:QUANT, a link to a .gguf file, or a name from `localllm list`"
        raise UsageError(f"{name!r} is nothing to download", _similar(name) or hint)
    return wanted, default


def find_here(name: str, wanted: Reference | Address, default: str) -> CachedFile:
    """The model on this machine that a NAME asks for.

    Raises:
        NotHereError: it has to be downloaded first.
    """
    repository = wanted.repository
    here = [f for f in cached_files() if f.repository.lower() == repository.lower()]
    asked = ""
    if isinstance(wanted, Reference):
        asked = wanted.wanted
        here = [f for f in here if wanted.file in ("", f.file)]
    if not here:
        raise NotHereError(name, f"{name} is not here: no file of {repository} is in the cache")
    if (exact := of_quantisation(here, asked or default)) is not None:
        return exact
    if not asked:
        return here[0]
    if named := [f for f in here if f.path.name.lower() == asked.lower()]:
        return named[0]
    present = ", ".join(dict.fromkeys(f.quantisation or f.path.name for f in here))
    raise NotHereError(name, f"{repository} is here, but not as {asked}", f"there is {present}")


def _bundled_file() -> Path:
    path = Path(__file__).resolve().parent.parent / "assets" / f"{BUNDLED}.gguf"
    if not path.is_file():
        raise LocalLLMError(f"the bundled model is missing: {path}", "reinstall, or name a model")
    return path


def _looks_like_path(name: str) -> bool:
    return (
        name.lower().endswith(".gguf")
        or name.startswith(("/", "./", "../", "~", "\\"))
        or "\\" in name
        or Path(name).is_absolute()
    )


def _files_in(folder: Path, name: str) -> str:
    found = sorted(p.name for p in folder.glob("*.gguf"))
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"it holds {', '.join(found[:3])}{more}"
    if (folder / "config.json").is_file():
        return f"`localllm convert {name}` makes one of the checkpoint in it"
    return "give the path of a .gguf file"


def _near_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} is not there either"
    siblings = [p.name for p in path.parent.glob("*.gguf")]
    return _did_you_mean(difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.75))


def _near_names(name: str) -> str:
    return _similar(name) or "`localllm list` shows the names it knows"


def _similar(name: str) -> str:
    known = [BUNDLED, *user_models(), *known_models(), *{f.repository for f in cached_files()}]
    return _did_you_mean(difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5))


def _did_you_mean(names: list[str]) -> str:
    return f"did you mean {' or '.join(names)}?" if names else ""
