"""Asking a server that may be busy, away, or unwilling: what is tried again, and what is said."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_token

from localllm.errors import LocalLLMError

T = TypeVar("T")

MOST_TRIES = 5
_FIRST_WAIT = 0.5  # seconds; doubled with each try
_LONGEST_WAIT = 120  # seconds; a server that asks for more is not waited for
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Patience:
    """How often a thing is tried again, and how long is waited in between.

    Args:
        what: the repository or the address, as errors name it.
        say: told in one line what is waited for.
        stopped: set to end every wait; None: nothing ends them.
        most: tries without a byte of progress between them.
    """

    def __init__(
        self,
        what: str,
        say: Callable[[str], None],
        stopped: threading.Event | None = None,
        most: int = MOST_TRIES,
    ) -> None:
        self._what = what
        self._most = most
        self._stopped = stopped or threading.Event()
        self._say = say
        self._tries = 0

    def refresh(self) -> None:
        """Begin to count anew: there was progress."""
        self._tries = 0

    def wait(self, error: Exception) -> None:
        """Wait for another try.

        Raises:
            LocalLLMError: it is of no use, or was tried often enough; says what went wrong.
        """
        self._tries += 1
        seconds = _FIRST_WAIT * 2 ** (self._tries - 1)
        if isinstance(error, HfHubHTTPError):
            if error.response.status_code not in _PASSING:
                raise explained(error, self._what) from error
            asked = _retry_after(error.response)
            if asked is not None and asked > _LONGEST_WAIT:
                hint = "try again then"
                raise LocalLLMError(f"{_status(error)}: it asks to wait {asked} s", hint) from error
            seconds = max(seconds, asked or 0)
        elif not isinstance(error, httpx2.TransportError):
            raise explained(error, self._what) from error
        if self._tries >= self._most:
            raise explained(error, self._what, self._tries) from error
        self._say(f"{_reason(error)}; trying again in {seconds:.0f} s")
        self._stopped.wait(seconds)


def patiently(call: Callable[[], T], patience: Patience) -> T:
    """What `call` returns, tried again where the fault may pass.

    Raises:
        LocalLLMError: see `Patience.wait`.
        OSError: of this machine, not of the network.
    """
    while True:
        try:
            return call()
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            # The library's errors are HTTP errors or OS errors, and for a name ValueErrors.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else None
            patience.wait(cause if isinstance(cause, Exception) else error)


def explained(error: Exception, what: str, tries: int = 1) -> LocalLLMError:
    """The line that says what went wrong at the hub, and what to do."""
    page = f"{constants.ENDPOINT}/{what}"
    token = get_token() is not None
    if isinstance(error, GatedRepoError):
        after = "" if token else ", then set HF_TOKEN to a token of yours"
        hint = f"accept its terms at {page}{after}"
        if token:
            hint += "; the token that HF_TOKEN or `hf auth login` set must be of that account"
        return LocalLLMError(f"{what} is gated", hint)
    if isinstance(error, RepositoryNotFoundError):
        hint = "or HF_TOKEN may not read it" if token else "a private one needs HF_TOKEN"
        return LocalLLMError(f"there is no repository {what} at {constants.ENDPOINT}", hint)
    if isinstance(error, RevisionNotFoundError):
        return LocalLLMError(f"{what} has no such revision", f"{page} lists them")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return LocalLLMError(f"{what}: a file that is listed is not there", "try again later")
    if isinstance(error, OfflineModeIsEnabled):
        return LocalLLMError(f"{what} is not here", "HF_HUB_OFFLINE forbids to ask the hub")
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        if code in (401, 403) and "://" not in what:
            hint = "is HF_TOKEN right?" if token else "HF_TOKEN may be needed"
        else:
            hint = "try again later" if code in _PASSING else ""
        often = f", {tries} times" if tries > 1 else ""
        return LocalLLMError(f"{what}: {_status(error)}{often}", hint)
    if isinstance(error, httpx2.TransportError):
        hint = "what was downloaded is kept; is the network there?"
        if "://" not in what:
            hint += " HF_ENDPOINT names another hub"
        return LocalLLMError(f"{what}: {_reason(error)}", hint)
    return LocalLLMError(f"{what}: {error}")


def _status(error: HfHubHTTPError) -> str:
    response = error.response
    return f"{response.url.host} answers {response.status_code} ({response.reason_phrase})"


def _reason(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        return _status(error)
    host = _host(error)
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return f"{host} cannot be reached"
    if isinstance(error, httpx2.TimeoutException):
        return f"{host} says nothing more"
    return f"the connection to {host} was lost"


def _host(error: Exception) -> str:
    try:
        request = error.request if isinstance(error, httpx2.TransportError) else None
    except RuntimeError:  # it was not told of its request
        request = None
    return str(request.url.host if request else urlsplit(constants.ENDPOINT).hostname)


def _retry_after(response: httpx2.Response) -> int | None:
    """Seconds that a response asks to wait; None: it does not say, or as a date, which few do."""
    text = response.headers.get("Retry-After", "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None
