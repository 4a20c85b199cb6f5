"""Who may come in: keys, and what protects a server without keys from web pages that its user visits."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit

from aiohttp import web

from aurora_pool.serve.errors import ApiError
from aurora_pool.serve.keys import Caller, KeyRing
from aurora_pool.serve.options import LOOPBACK_NAMES, ServerOptions

_CALLER = web.RequestKey("caller", Caller)

OPEN_PATHS = frozenset({"/health", "/ready", "/", "/ui/login"})
"""What load balancers and service managers ask, and where a browser begins: without a key."""
_OPEN_FOLDER = "/ui/static/"

COOKIE = "aurora_pool_key"


def is_open(request: web.Request) -> bool:
    """Whether a path needs no key."""
    return request.path in OPEN_PATHS or request.path.startswith(_OPEN_FOLDER)


class Gatekeeper:
    """Finds out who makes a request.

    With keys, every request needs one: ``Authorization: Bearer ap-...``. Without any, the server listens on loopback
    only and everybody there is its administrator; then a request that a web page has caused is refused: by the ``Host``
    it was sent to (which a rebound name gives away) and by the ``Origin`` that browsers add.
    """

    def __init__(self, keys: KeyRing, options: ServerOptions) -> None:
        self._keys = keys
        self._options = options
        self._everybody = Caller("local", True, 1.0, options.limits)

    async def required(self) -> bool:
        """Whether a key is needed."""
        if self._options.no_auth:
            return False
        return not self._options.is_loopback or await self._keys.exist()

    async def admit(self, request: web.Request) -> Caller:
        """Give the caller of a request. Raises :class:`ApiError` (401, 403)."""
        if not await self.required():
            check_origin(request, any_host=self._options.no_auth)
            return self._everybody
        text = _key_of(request)
        caller = await self._keys.caller_of(text) if text else None
        if caller is None:
            message = "Incorrect API key provided." if text else "You didn't provide an API key."
            raise ApiError(
                401, message, code="invalid_api_key", headers={"WWW-Authenticate": 'Bearer realm="aurora-pool"'}
            )
        return caller


def set_caller(request: web.Request, caller: Caller) -> None:
    """Note who makes a request."""
    request[_CALLER] = caller


def caller_of(request: web.Request) -> Caller:
    """Tell who makes a request."""
    return request[_CALLER]


def admin_of(request: web.Request) -> Caller:
    """Tell who makes a request that only administrators may make. Raises :class:`ApiError` (403)."""
    caller = caller_of(request)
    if not caller.admin:
        raise ApiError(403, "You have insufficient permissions for this operation.", code="insufficient_permissions")
    return caller


def _key_of(request: web.Request) -> str:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return text.strip()
    # Browsers hold the dashboard's key in a cookie; another site's request must not use it.
    if COOKIE in request.cookies:
        check_origin(request, any_host=True)
        return request.cookies[COOKIE]
    return ""


def check_origin(request: web.Request, *, any_host: bool = False) -> None:
    """Refuse what another site's page sent, and names that are not this machine's. Raises :class:`ApiError` (403)."""
    if not any_host and _name_of(request.host) not in LOOPBACK_NAMES:
        raise ApiError(403, "This server has no keys, so it answers at localhost and 127.0.0.1 only.", code="bad_host")
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise ApiError(403, "Requests from other sites are refused.", code="bad_origin")


@functools.lru_cache(maxsize=128)
def _name_of(host: str) -> str | None:
    """The name in a ``Host`` header; remembered, for every request has one."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None  # such as an address in brackets that is none
