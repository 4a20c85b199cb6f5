"""How a server says no: one exception, and the JSON body that each vLLM version makes of it."""

from __future__ import annotations

from typing import Any

BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUT_DOWN = "cannot schedule new futures after shutdown"

_TYPES = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "Service Unavailable",
}


class Refusal(Exception):
    """The server answers with an error.

    ``late`` marks what vLLM finds only when it hands a prompt to its engine: a streamed request has its 200 by then,
    and gets the error as an event.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        value: object = None,
        kind: str | None = None,
        late: bool = False,
    ) -> None:
        extras = [f"parameter={param}"] if param is not None else []
        if value is not None:
            extras.append(f"value={value}")
        if extras:
            message = f"{message} ({', '.join(extras)})"
        self.status = status
        self.message = message
        self.param = param
        self.kind = kind or _TYPES.get(status, "InternalServerError")
        self.late = late
        super().__init__(message)

    def event(self) -> dict[str, Any]:
        """Make the body that streams carry, the same in every version."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}

    def body(self, *, nested: bool = True) -> dict[str, Any]:
        """Make the body of an HTTP error; ``nested=False`` is the form of vLLM up to 0.10.0."""
        body: dict[str, Any] = self.event()
        return body if nested else {"object": "error", **body["error"]}


def invalid(place: str, message: str, value: object) -> Refusal:
    """Make the 400 of a value that has the wrong type; ``place`` is the field, ``prompt.1.0`` what stands within it.

    >>> invalid("max_tokens", "Input should be a valid integer", "x").param
    'body.max_tokens'
    """
    detail = {"type": "type_error", "loc": f"body.{place}", "msg": message, "input": value}
    refusal = Refusal(400, f"1 validation error:\n  {detail}", kind="Bad Request")
    refusal.param = f"body.{place}"
    return refusal
