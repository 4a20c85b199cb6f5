"""``/openapi.json``: what the server offers, made from the routes themselves and their handlers' own words."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from aurora_pool.serve.access import OPEN_PATHS
from aurora_pool.serve.described import JSON, OBJECT, Description, described
from aurora_pool.serve.http_json import encode_reply
from aurora_pool.serve.rendering import UI

_PARAMETER = re.compile(r"\{(\w+)\}")
_SCHEMAS = "#/components/schemas/"

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": ["string", "null"]},
                "type": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
_AN_ERROR = {
    "description": "An error in OpenAI's shape.",
    "content": {JSON: {"schema": {"$ref": _SCHEMAS + "Error"}}},
}


class OpenApi:
    """The handler; it describes the routes that ``app`` has by then."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    def routes(self) -> list[web.RouteDef]:
        """Where the handler is reached."""
        return [web.get("/openapi.json", self.description, allow_head=False)]

    @described(reply=OBJECT)
    async def description(self, request: web.Request) -> web.Response:
        """Describe the API."""
        return encode_reply(await asyncio.to_thread(describe, self._app))  # it imports openai's types


def describe(app: web.Application) -> dict[str, Any]:
    """Write the description of an application's routes."""
    paths: dict[str, dict[str, Any]] = {}
    schemas = _Schemas()
    for route in app.router.routes():
        resource = route.resource
        if resource is None or route.method == "*":
            continue
        path = resource.canonical
        if path == "/" or f"{path}/".startswith(UI):
            continue  # pages for people
        summary = (inspect.getdoc(route.handler) or "").partition("\n")[0]
        description = getattr(route.handler, "description", Description())
        paths.setdefault(path, {})[route.method.lower()] = _operation(path, summary, description, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aurora-pool serve",
            "version": "1",
            "description": "The OpenAI API for a fleet of vLLM servers: online endpoints, files, batches, webhooks.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, **schemas.named},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, summary: str, description: Description, schemas: _Schemas) -> dict[str, Any]:
    reply = schemas.of(description.reply)
    done = {"description": "As asked.", "content": {kind: {"schema": reply} for kind in description.reply_types}}
    if description.reply_types != (JSON,):
        done["content"] = {
            kind: {"schema": reply if kind == JSON else {"type": "string"}} for kind in description.reply_types
        }
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in _PARAMETER.findall(path)
        ]
        + [{"name": name, "in": "query", "schema": schema} for name, schema in description.query.items()],
        "responses": {**{str(status): done for status in description.statuses}, "default": _AN_ERROR},
        "security": [] if path in OPEN_PATHS else [{"key": []}],
    }
    if description.body is not None:
        content = {description.body_type: {"schema": schemas.of(description.body)}}
        operation["requestBody"] = {"required": description.needs_body, "content": content}
    return operation


class _Schemas:
    """Gives the schema of whatever a description names; those that have a name are kept apart."""

    def __init__(self) -> None:
        self.named: dict[str, Any] = {}

    def of(self, what: Any) -> Any:
        if what is None:
            return {}
        if isinstance(what, str):
            return self._of_openai(what)
        if isinstance(what, Mapping):
            return {
                name: self._of_openai(value) if name == "items" and isinstance(value, str) else self._inner(value)
                for name, value in what.items()
            }
        (schema,), components = msgspec.json.schema_components([what], ref_template=_SCHEMAS + "{name}")
        self.named.update(components)
        return schema

    def _inner(self, value: Any) -> Any:
        return self.of(value) if isinstance(value, Mapping) else value

    def _of_openai(self, name: str) -> dict[str, str]:
        """The schema that the openai package's own type has."""
        module, _, kind = name.partition(":")
        if kind not in self.named:
            model = getattr(importlib.import_module(f"openai.{module}"), kind)
            schema = model.model_json_schema(ref_template=f"{_SCHEMAS}{kind}.{{model}}")
            self.named.update({f"{kind}.{part}": value for part, value in schema.pop("$defs", {}).items()})
            self.named[kind] = schema
        return {"$ref": _SCHEMAS + kind}
