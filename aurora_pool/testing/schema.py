"""A JSON value that matches a simple JSON schema: what a simulated agent answers under ``response_format``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


def example_of(schema: Schema, number: int, *, root: Schema | None = None) -> Any:
    """Make a value of a schema; ``number`` chooses among those that fit.

    Understands types, ``properties``, ``items``, ``enum``, ``const``, ``anyOf``, ``oneOf``, local ``$ref`` and the
    bounds of numbers, texts and arrays.

    >>> example_of({"type": "object", "properties": {"age": {"type": "integer", "minimum": 18}}}, 3)
    {'age': 21}
    """
    root = schema if root is None else root
    if "$ref" in schema:
        return example_of(_resolve(str(schema["$ref"]), root), number, root=root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][number % len(schema["enum"])]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return example_of(schema[choice][number % len(schema[choice])], number, root=root)
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: example_of(part, number + i, root=root) for i, (name, part) in enumerate(properties.items())}
    if kind == "array":
        count = max(schema.get("minItems", 1), min(1 + number % 3, schema.get("maxItems", 3)))
        return [example_of(schema.get("items", {"type": "string"}), number + i, root=root) for i in range(count)]
    return _scalar(kind, schema, number)


def _scalar(kind: str, schema: Schema, number: int) -> Any:
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 100) - 1)
        value = low + number % max(1, int(high - low) + 1)
        return int(value) if kind == "integer" else float(value)
    if kind == "boolean":
        return number % 2 == 0
    if kind == "null":
        return None
    text = ("alpha", "beta", "gamma", "delta")[number % 4]
    shortest = schema.get("minLength", 0)
    return (text * (1 + shortest // len(text)))[: max(shortest, min(len(text), schema.get("maxLength", 99)))]


def _resolve(reference: str, root: Schema) -> Schema:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return]
