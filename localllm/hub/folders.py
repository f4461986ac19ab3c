"""The user's folders: configuration, state, and the Hugging Face cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def config_file() -> Path:
    """The user's `config.toml`; `LOCALLLM_CONFIG` names another one."""
    if named := os.environ.get("LOCALLLM_CONFIG"):
        return Path(named).expanduser()
    return _base("XDG_CONFIG_HOME", ".config", "APPDATA") / "localllm" / "config.toml"


def state_dir() -> Path:
    """Where the prompt history lives."""
    return _base("XDG_STATE_HOME", ".local/state", "LOCALAPPDATA") / "localllm"


def hugging_face_cache() -> Path:
    """The Hugging Face cache, by that library's own rules; read in place."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def _base(xdg: str, fallback: str, windows: str) -> Path:
    if named := os.environ.get(xdg):
        return Path(named).expanduser()
    if sys.platform == "win32" and (named := os.environ.get(windows)):
        return Path(named)
    if sys.platform == "darwin":
        return Path("~/Library/Application Support").expanduser()
    return Path("~").expanduser() / fallback
