"""The user's folders: configuration, state, and the Hugging Face cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from localllm.errors import LocalLLMError


def config_file() -> Path:
    """The user's `config.toml`; `LOCALLLM_CONFIG` names another one."""
    if named := os.environ.get("LOCALLLM_CONFIG"):
        return expanded(named)
    return _base("XDG_CONFIG_HOME", ".config", "APPDATA") / "localllm" / "config.toml"


def state_dir() -> Path:
    """Where the prompt history lives, and what is known of running servers."""
    return _base("XDG_STATE_HOME", ".local/state", "LOCALAPPDATA") / "localllm"


def user_models_file() -> Path:
    """The user's own `models.toml`, beside `config.toml`."""
    return config_file().with_name("models.toml")


def models_dir() -> Path:
    """Where models lie that no Hugging Face cache has a place for: converted ones, and those
    from other servers."""
    return _base("XDG_DATA_HOME", ".local/share", "LOCALAPPDATA") / "localllm" / "models"


def cache_dir() -> Path:
    """Where what can be made again lies: packed weights."""
    if sys.platform == "darwin":
        return expanded("~/Library/Caches/localllm")
    return _base("XDG_CACHE_HOME", ".cache", "LOCALAPPDATA") / "localllm"


def hugging_face_cache() -> Path:
    """The Hugging Face cache, by that library's own rules; read in place.

    Raises:
        LocalLLMError: one of that library's variables is not what it must be.
    """
    # Its scan of the cache is not used: to import that takes longer than all of ours together.
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ValueError as error:
        raise LocalLLMError(f"huggingface_hub cannot read its HF_* variables: {error}") from None
    return Path(HF_HUB_CACHE)


def expanded(text: str) -> Path:
    """The path with `~` and `~user` replaced; as it stands where nobody knows that folder."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _base(xdg: str, fallback: str, windows: str) -> Path:
    if named := os.environ.get(xdg):
        return expanded(named)
    if sys.platform == "win32" and (named := os.environ.get(windows)):
        return Path(named)
    if sys.platform == "darwin":
        return expanded("~/Library/Application Support")
    return expanded(f"~/{fallback}")
