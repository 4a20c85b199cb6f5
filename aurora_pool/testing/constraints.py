"""Which form a request wants its answer in: a JSON schema, one of some texts, or any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import Refusal, invalid

Constraint: TypeAlias = Mapping[str, Any] | tuple[str, ...]
"""A JSON schema, or the texts to choose from."""

_ANY_OBJECT = {"type": "object"}
_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def read_constraint(body: Mapping[str, Any], profile: AgentProfile) -> Constraint | None:
    """Read what a request says of its answer's form, in the fields that this version knows.

    Regular expressions and grammars are taken and not heeded.
    """
    wanted = body.get("response_format")
    if wanted is not None and not isinstance(wanted, Mapping):
        raise invalid("response_format", "Input should be a valid dictionary", wanted)
    kind = wanted.get("type") if wanted is not None else None
    if wanted is not None and kind == "json_schema":
        schema = wanted.get("json_schema")
        if not isinstance(schema, Mapping):
            message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
            raise Refusal(400, message, param="response_format")
        return _schema(schema.get("schema") or _ANY_OBJECT, "response_format")
    if kind == "json_object":
        return _ANY_OBJECT
    structured = body.get("structured_outputs") if profile.at_least(0, 11) else None
    if structured is not None:
        if not isinstance(structured, Mapping):
            raise invalid("structured_outputs", "Input should be a valid dictionary", structured)
        return _structured(structured)
    if not profile.at_least(0, 12):
        if body.get("guided_json") is not None:
            return _schema(body["guided_json"], "guided_json")
        if body.get("guided_choice") is not None:
            return _texts(body["guided_choice"], "guided_choice")
    return None


def _structured(structured: Mapping[str, Any]) -> Constraint | None:
    kinds = [kind for kind in _KINDS if structured.get(kind) is not None]
    if len(kinds) != 1:
        words = "only use one kind of constraints" if kinds else "use one kind of constraints, but none are specified"
        raise Refusal(400, f"You can {words} for structured outputs.", param="structured_outputs")
    if "json" in kinds:
        return _schema(structured["json"], "structured_outputs.json")
    if "choice" in kinds:
        return _texts(structured["choice"], "structured_outputs.choice")
    return _ANY_OBJECT if "json_object" in kinds else None


def _schema(value: object, place: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise invalid(place, "Invalid JSON schema", value) from None
    if not isinstance(value, Mapping):
        raise invalid(place, "Input should be a valid dictionary", value)
    return value


def _texts(value: object, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise invalid(place, "Input should be a list of at least one string", value)
    return tuple(value)
