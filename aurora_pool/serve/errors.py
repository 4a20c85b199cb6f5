"""Errors as the OpenAI API words them: ``{"error": {"message", "type", "param", "code"}}`` with a fitting status."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web


class ApiError(Exception):
    """A request's error: ``status`` is HTTP's, the rest is what the body says."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | int | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = headers

    def response(self) -> web.Response:
        """The reply that tells it."""
        created = web.Response(
            status=self.status, body=self.body(), content_type="application/json", headers=self.headers
        )
        if self.status == 408:
            created.force_close()  # what comes later on the connection is the rest of the body
        return created

    def body(self) -> bytes:
        """The JSON that tells it."""
        return error_body(self.message, kind=self.kind, param=self.param, code=self.code)


def error_body(message: str | None, *, kind: str, param: str | None = None, code: str | int | None = None) -> bytes:
    """Write the body of an error."""
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """An error of what the client sent."""
    return ApiError(400, message, param=param, code=code)


def not_found(kind: str, name: str) -> ApiError:
    """An object that is not there, or is another user's: nobody can tell which."""
    return ApiError(404, f"No such {kind} object: {name}", param="id", code=None)


def conflict(message: str, *, code: str) -> ApiError:
    """A request that the object's state forbids for good; the openai client sends others of this status again."""
    return ApiError(409, message, code=code, headers={"x-should-retry": "false"})


def too_large(limit: int) -> ApiError:
    """A body above the limit."""
    return ApiError(413, f"The request is larger than the {limit} bytes this server accepts.", code="request_too_large")


def too_slow() -> ApiError:
    """A body that does not come."""
    return ApiError(408, "The request's body did not come in time.", code="request_timeout")


def unavailable(message: str) -> ApiError:
    """Nobody can serve the request now."""
    return ApiError(503, message, kind="service_unavailable_error", headers={"Retry-After": "5"})


def of_http_exception(error: web.HTTPException) -> ApiError:
    """Word an error that aiohttp raised (no such path, wrong method, body too large)."""
    headers: dict[str, Any] = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return ApiError(error.status, error.reason, headers=headers)
