"""Where a setting comes from: flag, environment, `config.toml`, the model, the preset."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from localllm.cli.options import ChatOptions, EngineOptions, SamplingOptions
from localllm.errors import UsageError
from localllm.hub.folders import cache_dir, config_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

if TYPE_CHECKING:
    from localllm.decoding.params import GenerationParams
    from localllm.gguf.reader import GGUFFile
    from localllm.ops.packed import PackedCache

PACKED_CACHE_GB = 20.0

Options = TypeVar("Options", SamplingOptions, EngineOptions, ChatOptions)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


def settle(options: Options, preset: Mapping[str, Any] | None = None) -> Options:
    """Fill the flags left out from the environment, the model's preset and `config.toml`."""
    config = load_config(config_file())
    filled: dict[str, Any] = {}
    for name, kind in _kinds(type(options)).items():
        if getattr(options, name) is not None:
            continue
        variable = f"LOCALLLM_{name.upper()}"
        if (text := os.environ.get(variable)) not in (None, ""):
            filled[name] = _parse(text, kind, variable)
        elif preset and name in preset:
            filled[name] = preset[name]
        elif name in config:
            filled[name] = config[name]
    return dataclasses.replace(options, **filled)


def default_model() -> str | None:
    """The model to use where none is named: `LOCALLLM_MODEL`, then `model` in `config.toml`."""
    named = os.environ.get("LOCALLLM_MODEL") or load_config(config_file()).get("model")
    return None if named is None else str(named)


@lru_cache(maxsize=4)
def load_config(path: Path) -> Mapping[str, Any]:
    """The checked `config.toml`; empty where there is none, unless `LOCALLLM_CONFIG` names it.

    Raises:
        UsageError: the file is not TOML, or a key or a value in it is not known; names it.
    """
    try:
        if path.exists() and not path.is_file() and path != Path(os.devnull):
            raise UsageError(f"{path}: not a regular file")  # a FIFO could be waited for forever
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # a home that is no folder holds no file
        if os.environ.get("LOCALLLM_CONFIG"):
            raise UsageError(f"LOCALLLM_CONFIG: no such file: {path}") from None
        return {}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML
        raise UsageError(f"{path}: {error}") from None
    known = {"model": str}
    for group in (SamplingOptions, EngineOptions, ChatOptions):
        known |= _kinds(group)
    config: dict[str, Any] = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"
            raise UsageError(f"{path}: unknown setting {key!r}", hint)
        config[name] = _parse(value, known[name], f"{path}: {key}")
    return config


def generation_params(
    options: SamplingOptions,
    file: GGUFFile | None = None,
    preset: Mapping[str, Any] | None = None,
) -> GenerationParams:
    """The parameters of an answer: settled flags, then the model's metadata, then the defaults.

    Args:
        options: the flags.
        file: of the model; None, to check the flags before it is loaded.
        preset: what the model's alias sets.

    Raises:
        UsageError: a value is impossible; names the flag.
    """
    from localllm.decoding.params import GenerationParams
    from localllm.hub.facts import recommended_params

    settled = dataclasses.asdict(settle(options, preset))
    given = _as_parameters({name: value for name, value in settled.items() if value is not None})
    recommended = {} if file is None else recommended_params(file)
    return GenerationParams(**{**recommended, **given})


def sampling_defaults(preset: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's preset sets of the parameters of an answer, by their names."""
    names = {field.name for field in dataclasses.fields(SamplingOptions)}
    return _as_parameters({name: value for name, value in preset.items() if name in names})


def _as_parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Values of flags as `GenerationParams` has them."""
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    if "logit_bias" in given:
        given["logit_bias"] = _logit_bias(given["logit_bias"])
    return given


def engine_arguments(options: EngineOptions) -> dict[str, Any]:
    """Arguments of `Engine.load` for settled flags; those not given are left to it."""
    arguments = dataclasses.asdict(options)
    arguments["context"] = arguments.pop("ctx")
    arguments["packed"] = packed_cache(arguments.pop("packed_cache"))
    del arguments["draft"]  # names another model, perhaps
    return {name: value for name, value in arguments.items() if value is not None}


def packed_cache(gigabytes: float | None) -> PackedCache:
    """Where packed weights are kept, for so many gigabytes; None: the default.

    Raises:
        UsageError: no possible size.
    """
    from localllm.ops.packed import PackedCache

    size = PACKED_CACHE_GB if gigabytes is None else gigabytes
    if not 0 <= size <= 1e6:  # nor what is not a number
        raise UsageError(
            f"packed-cache {size}: must be >= 0 and <= 1000000",
            "set by LOCALLLM_PACKED_CACHE, config.toml, or --packed-cache where a command has it",
        )
    return PackedCache(cache_dir() / "packed", int(size * 1e9))


def _logit_bias(entries: list[str]) -> dict[int, float]:
    biases: dict[int, float] = {}
    for entry in entries:
        token, _, bias = entry.replace(":", "=").partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise UsageError(f"--logit-bias {entry!r} is not of the form ID=BIAS") from None
    return biases


def _kinds(group: type[Any]) -> dict[str, Any]:
    """Field -> the type of its value (`list[str] | None` -> `list[str]`)."""
    return {name: get_args(hint)[0] for name, hint in get_type_hints(group).items()}


def _parse(value: Any, kind: Any, where: str) -> Any:
    """A value from text (environment) or TOML as the type that its flag has."""
    if get_args(kind):
        items = value if isinstance(value, list) else [value]
        return [_parse(item, str, where) for item in items]
    if kind is bool and str(value).lower() in _TRUE | _FALSE:
        return str(value).lower() in _TRUE
    if kind is str and isinstance(value, str):
        return value
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            return kind(value) if kind is float or number == int(number) else int(str(value))
        except (TypeError, ValueError, OverflowError):
            pass
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
    raise UsageError(f"{where} must be {wanted}, not {value!r}")
