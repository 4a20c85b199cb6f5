"""What handlers say of themselves for ``/openapi.json``: what they take, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

Handler = TypeVar("Handler", bound=Callable[..., Any])
Schema = Mapping[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"


class Description(msgspec.Struct, frozen=True):
    """The body and the query of requests, and the body of replies.

    ``body`` is the type that the handler reads; None says that there is none. ``reply`` is a type, the name of one of
    the openai package (``"types:Batch"``: what its client expects), or a schema; ``query`` has a schema for each
    parameter.
    """

    body: Any = None
    body_type: str = JSON
    needs_body: bool = True
    query: Mapping[str, Schema] = {}
    reply: Any = None
    reply_types: Sequence[str] = (JSON,)
    statuses: Sequence[int] = (200,)


def described(**what: Any) -> Callable[[Handler], Handler]:
    """Say what a handler takes and gives; the fields are those of :class:`Description`."""
    description = Description(**what)

    def add(handler: Handler) -> Handler:
        handler.description = description  # type: ignore[attr-defined]
        return handler

    return add


def page_of(reply: str) -> Schema:
    """A page of a list of objects of the openai package."""
    text = {"type": ["string", "null"]}
    return {
        "type": "object",
        "required": ["object", "data", "has_more", "first_id", "last_id"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": reply},
            "has_more": {"type": "boolean"},
            "first_id": text,
            "last_id": text,
        },
    }


def limit(most: int) -> Schema:
    """How many a page may have."""
    return {"type": "integer", "minimum": 1, "maximum": most}


TEXT: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}
