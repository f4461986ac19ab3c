"""Who may ask for what: keys, admin routes, and requests that a web page made behind one's back."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from localllm.server import errors, page
from localllm.server.errors import ApiError

OPEN_PATHS = frozenset({"/health"}) | page.PATHS  # need no key
ADMIN_PATHS = ("/admin/", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


class KeyCheck:
    """Asks for a key where keys are set, and for an admin key on admin routes.

    Where no admin key is set, admin routes are for nobody if user keys are set; else for who asks
    from this machine itself, directly.

    Args:
        app: what answers.
        keys: of users; none: nobody is asked.
        admin_keys: open the admin routes, and everything else.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], admin_keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [_digest(key.encode()) for key in keys]
        self._admin_keys = [_digest(key.encode()) for key in admin_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                self._require(scope)
            except ApiError as error:
                await errors.response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _require(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        admin = scope["path"].startswith(ADMIN_PATHS)
        sent = _sent_key(headers)
        # A key of any length is one digest, compared with every other: an answer's delay tells
        # nothing of the keys.
        digest = _digest(sent)
        is_user = _among(digest, self._keys)
        is_admin = _among(digest, self._admin_keys)
        if is_admin:
            return
        if admin and not self._admin_keys:
            if self._keys and not is_user:
                raise _unknown(sent)
            if self._keys or not _from_here(scope, headers):
                raise ApiError(403, "no admin key is set (--admin-key): admin routes are closed")
            return
        if admin and is_user:
            raise ApiError(403, "an admin key is needed, this is a user's", code="not_admin")
        if (self._keys or admin) and not is_user:
            raise _unknown(sent)


class PageGuard:
    """Refuses requests that a foreign web page makes a browser send.

    A browser names the page's origin; only the server's own pages and those of `origins` may ask.
    A page whose name was made to point here (DNS rebinding) has an origin of that name, so where
    `names` are given, the server answers to these and to this machine's own names only.

    Args:
        app: what answers.
        origins: of pages that may ask; "*": all.
        names: hosts that requests may be addressed to; None: any.
    """

    def __init__(
        self, app: ASGIApp, origins: Iterable[str], names: Iterable[str] | None = None
    ) -> None:
        self._app = app
        self._origins = {origin.lower() for origin in origins}
        hosts = {urlsplit(origin).hostname or "" for origin in self._origins}
        self._names = None if names is None else {name.lower() for name in names} | hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "http":
            try:
                self._require(dict(scope["headers"]))
            except ApiError as error:
                await errors.response(error, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _require(self, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = _host_name(host)
        known = not host or self._names is None or name in self._names or _is_local(name)
        if not known:  # browsers always name the host
            raise ApiError(
                403,
                f"{name[:100]!r} is no name of this server: ask for localhost, or set --api-key",
                code="foreign_host",
            )
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if not origin or self._origins & {origin, "*"}:
            return
        if _place_of(origin) != host:
            raise ApiError(
                403,
                f"pages of {origin[:100]!r} may not ask this server (--cors allows an origin)",
                code="foreign_origin",
            )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from its own machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _place_of(origin: str) -> str | None:
    """The host and port of an origin; None where it has none, such as "null"."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _sent_key(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and key:
        return key.strip()
    return headers.get(b"x-api-key", b"")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _among(digest: bytes, known: list[bytes]) -> bool:
    matches = [hmac.compare_digest(digest, one) for one in known]
    return any(matches)


def _unknown(sent: bytes) -> ApiError:
    what = "a wrong API key" if sent else "an API key is needed"
    return ApiError(401, what, code="invalid_api_key")


def _from_here(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Whether a request comes from this machine, and not through something that passes it on."""
    if any(name in headers for name in _FORWARDED):
        return False
    if scope.get("client") is None:  # a Unix socket, whose file is the user's own
        return True
    host = headers.get(b"host", b"").decode("latin-1").lower()
    return is_loopback(scope["client"][0]) and _is_local(_host_name(host))


def _is_local(name: str) -> bool:
    return is_loopback(name) or name.endswith(".localhost")


def _host_name(host: str) -> str:
    """`[::1]:8080` -> `::1`, `localhost:8080` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
