"""Error bodies of vLLM and its relatives -> :class:`~aurora_pool.errors.ServerError`.

Four shapes are in use: ``{"error": {"message", "type", "param", "code"}}`` (since 0.10.2), the same at the top level
with ``"object": "error"`` (before), ``{"error": "Unauthorized"}`` (401), ``{"detail": "Not Found"}`` (unknown paths).
"""

from __future__ import annotations

from typing import Any

import msgspec

from aurora_pool.errors import ServerError

_SHOWN = 500
"""Bytes of an unknown body that are worth showing."""


def parse_error(status: int, body: bytes) -> ServerError:
    """Read the body of a reply with an error status; any body will do.

    >>> parse_error(404, b'{"detail":"Not Found"}')
    ServerError('404: Not Found')
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ServerError(status, body[:_SHOWN].decode("utf-8", "replace").strip())
    return error_of(value, status)


def error_of(value: Any, status: int = 500) -> ServerError:
    """Read a decoded error body or the payload of an error event, whose own ``code`` wins over ``status``."""
    inner = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(inner, dict):
        return ServerError(status, str(inner))
    message = inner.get("message", inner.get("detail", ""))
    code = inner.get("code")
    param = inner.get("param")
    return ServerError(
        code if isinstance(code, int) and 400 <= code <= 599 else status,
        message if isinstance(message, str) else msgspec.json.encode(message).decode(),
        param=param if isinstance(param, str) else None,
    )
