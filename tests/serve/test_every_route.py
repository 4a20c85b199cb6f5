"""Every route that ``/openapi.json`` describes, with odd input of every kind: errors in OpenAI's shape, and no 500."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aurora_pool.serve.app import open_app
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.openapi import describe
from aurora_pool.serve.options import ServerOptions
from tests.serve.running import COMPLETIONS, MODEL, Running, jsonl, line, running, submit

ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, "", "x", "\ud83d", "\x00", "é" * 300, [], [[]], [1, "a"], {}, {"a": {"b": []}},
    "24h", "created_at", "/v1/completions", "https://example.org/",
]  # fmt: skip
FIELDS = (
    "model", "prompt", "messages", "input", "max_tokens", "stream", "n", "input_file_id", "endpoint", "file", "limits",
    "metadata", "output_expires_after", "priority", "name", "url", "event_types", "event_type", "user", "role",
    "weight", "keep_old_secret_active_for_24_hours", "purpose", "stream_options", "completion_window",
)  # fmt: skip
IDS = ("x", "%00", "..", "%2e%2e%2fsecret", "batch_0", "é", "a" * 300)
QUERIES = (
    "",
    "?limit=-1",
    "?limit=x",
    "?limit=99999999999999999999",
    "?after=nope",
    "?after=%00",
    "?order=up",
    "?purpose=%00",
)
RAW = (b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000, b'"' + b"x" * 100)
ROUNDS = 12


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


async def test_no_input_makes_the_server_fail(tmp_path: Path) -> None:
    rng = random.Random(1)
    async with running(tmp_path) as run:
        file = await run.client.files.create(file=("a.jsonl", jsonl([line("a")])), purpose="batch")
        async with run.http.get(f"{run.server.address}/openapi.json") as reply:
            paths = (await reply.json())["paths"]
        assert COMPLETIONS in paths
        for path, methods in paths.items():
            if path == "/api/events":
                continue  # it never ends
            for method, operation in methods.items():
                assert operation["summary"], path
                for _ in range(ROUNDS):
                    names = (*IDS, file.id)
                    url = path
                    for parameter in operation["parameters"]:
                        url = url.replace("{" + parameter["name"] + "}", rng.choice(names))
                    await _ask(run, method, url + rng.choice(QUERIES), _body(rng))


def _body(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return rng.choice(RAW)
    fields = {name: rng.choice(ODD) for name in rng.sample(FIELDS, rng.randint(1, 8))}
    try:
        return encode(fields)
    except UnicodeEncodeError:
        return encode({name: repr(value) for name, value in fields.items()})


async def _ask(run: Running, method: str, url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    sent = body if method == "post" else None
    async with run.http.request(method, f"{run.server.address}{url}", data=sent, headers=headers) as reply:
        content = await reply.read()
    assert reply.status < 500, (method, url, body[:300], content)
    if reply.status >= 400:
        error = msgspec.json.decode(content)["error"]
        assert set(error) >= {"message", "type"}, (method, url, content)


async def test_every_route_does_what_its_description_says(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        batch = await submit(run.client, [line("a")])
        hook = await run.client.webhooks.create(
            name="hook", url="https://127.0.0.1/hook", event_types=["batch.completed"]
        )
        known = {"batch_id": batch.id, "file_id": batch.input_file_id, "webhook_endpoint_id": hook.id, "model": MODEL}
        async with run.http.get(f"{run.server.address}/openapi.json") as reply:
            content = await reply.json()
        del content["paths"]["/api/events"]  # it never ends
        await asyncio.to_thread(_try_all, content, run.server.address, known)


def _try_all(content: dict[str, Any], address: str, known: dict[str, str]) -> None:
    """Have schemathesis make requests of each route by its description, the same ones each time."""
    for methods in content["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in known:
                    parameter["schema"] = {"enum": [known[parameter["name"]], "no such thing"]}
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    schema: Any = schemathesis.openapi.from_dict(content)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 25
    for operation in operations:
        used = [check for check in checks if operation.path != "/ready" or check is not not_a_server_error]
        _try(operation, used, address)


def _try(operation: Any, checks: list[Any], address: str) -> None:
    @settings(max_examples=4, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def attempt(case: Any) -> None:
        case.validate_response(case.call(base_url=address), checks=checks)

    attempt()


async def test_every_route_is_described(tmp_path: Path) -> None:
    async with open_app(ServerOptions(data=tmp_path, grace=0), ServedFleet([])) as app:
        described = describe(app)["paths"]
        routes = {
            (route.method.lower(), route.resource.canonical)
            for route in app.router.routes()
            if route.resource and not (route.resource.canonical == "/" or route.resource.canonical.startswith("/ui"))
        }
    assert {(method, path) for path, methods in described.items() for method in methods} == routes
