"""``/openapi.json``: what the server offers, made from the routes themselves and their handlers' own words."""

from __future__ import annotations

import inspect
import re
from typing import Any

from aiohttp import web

from aurora_pool.serve.access import OPEN_PATHS
from aurora_pool.serve.rendering import UI
from aurora_pool.serve.wire import encode_reply

_PARAMETER = re.compile(r"\{(\w+)\}")

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


class OpenApi:
    """The handler; it describes the routes that ``app`` has by then."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    def routes(self) -> list[web.RouteDef]:
        """Where the handler is reached."""
        return [web.get("/openapi.json", self.description, allow_head=False)]

    async def description(self, request: web.Request) -> web.Response:
        """Describe the API."""
        return encode_reply(describe(self._app))


def describe(app: web.Application) -> dict[str, Any]:
    """Write the description of an application's routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in app.router.routes():
        resource = route.resource
        if resource is None or route.method == "*":
            continue
        path = resource.canonical
        if path == "/" or f"{path}/".startswith(UI):
            continue  # pages for people
        summary = (inspect.getdoc(route.handler) or "").partition("\n")[0]
        paths.setdefault(path, {})[route.method.lower()] = _operation(path, route.method, summary)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aurora-pool serve",
            "version": "1",
            "description": "The OpenAI API for a fleet of vLLM servers: online endpoints, files, batches, webhooks.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(path: str, method: str, summary: str) -> dict[str, Any]:
    error = {
        "description": "An error in OpenAI's shape.",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PARAMETER.findall(path)
        ],
        "responses": {"200": {"description": "As asked."}, "default": error},
        "security": [] if path in OPEN_PATHS else [{"key": []}],
    }
    if method == "POST":
        kind = "multipart/form-data" if path == "/v1/files" else "application/json"
        operation["requestBody"] = {"content": {kind: {"schema": {"type": "object"}}}}
    return operation
