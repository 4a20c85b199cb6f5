"""Webhooks: managed by the openai client, verified by it, and delivered whatever happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from aurora_pool.serve import delivery
from aurora_pool.serve.delivery import is_public
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import deliveries
from tests.serve.running import Running, ended, line, running, submit, until


@dataclass
class Receiver:
    """A server that takes webhooks. ``statuses`` are what it answers next; then 200."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    elsewhere: int = 0

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async def other(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.add_routes([web.post("/hook", receiver.take), web.route("*", "/elsewhere", receiver.other)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def subscribe(run: Running, receiver: Receiver, *types: Any) -> Any:
    return await run.client.webhooks.create(
        name="tests",
        url=receiver.url,
        event_types=list(types or ("batch.completed", "batch.failed", "batch.cancelled")),
    )


async def test_endpoints_are_managed_as_openai_has_it(tmp_path: Path) -> None:
    async with running(tmp_path) as run:
        hooks = run.client.webhooks
        assert "batch.completed" in (await hooks.event_types.list()).data
        created = await hooks.create(name="a", url="https://example.org/x", event_types=["batch.completed"])
        assert created.signing_secret.startswith("whsec_")
        found = await hooks.retrieve(created.id)
        assert (found.name, found.url, found.event_types) == ("a", "https://example.org/x", ["batch.completed"])
        assert found.signing_secret_hint is not None
        assert created.signing_secret not in found.model_dump_json()
        changed = await hooks.update(created.id, name="b", event_types=["batch.failed", "batch.expired"])
        assert (changed.name, changed.event_types) == ("b", ["batch.failed", "batch.expired"])
        rotated = await hooks.rotate_secret(created.id)
        assert rotated.signing_secret != created.signing_secret
        assert [each.id for each in (await hooks.list()).data] == [created.id]
        assert (await hooks.delete(created.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await hooks.retrieve(created.id)


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "http://example.org/"},
        {"url": "ftp://example.org/"},
        {"url": "https://"},
        {"url": "https://user:password@example.org/"},
        {"event_types": []},
        {"event_types": ["response.completed"]},
        {"name": ""},
    ],
)
async def test_bad_endpoints_are_refused(tmp_path: Path, bad: dict[str, Any]) -> None:
    async with running(tmp_path) as run:
        good: dict[str, Any] = {"name": "a", "url": "https://example.org/", "event_types": ["batch.completed"]}
        with pytest.raises(openai.BadRequestError):
            await run.client.webhooks.create(**{**good, **bad})


async def test_what_becomes_of_a_batch_is_told_and_verified(tmp_path: Path) -> None:
    async with receiving() as receiver, running(tmp_path, private_webhooks=True) as run:
        endpoint = await subscribe(run, receiver)
        good = await ended(run.client, await submit(run.client, [line("a")]))
        bad = await ended(run.client, await submit(run.client, b"nonsense\n"))
        await until(lambda: len(receiver.got) == 2)
        events = [
            run.client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret) for headers, body in receiver.got
        ]
        told = {(event.type, event.data.id) for event in events}  # type: ignore[union-attr]
        assert told == {("batch.completed", good.id), ("batch.failed", bad.id)}
        assert [headers["webhook-id"] for headers, _ in receiver.got] == [event.id for event in events]
        headers, body = receiver.got[0]
        with pytest.raises(openai.InvalidWebhookSignatureError):
            run.client.webhooks.unwrap(body.replace(b"batch", b"botch"), headers, secret=endpoint.signing_secret)


async def test_a_rotated_secret_and_the_old_one_both_verify(tmp_path: Path) -> None:
    async with receiving() as receiver, running(tmp_path, private_webhooks=True) as run:
        old = await subscribe(run, receiver)
        new = await run.client.webhooks.rotate_secret(old.id, keep_old_secret_active_for_24_hours=True)
        result = await run.client.webhooks.test(old.id, event_type="batch.completed")
        assert (result.success, result.status_code) == (True, 200)
        headers, body = receiver.got[0]
        for secret in (old.signing_secret, new.signing_secret):
            run.client.webhooks.verify_signature(body, headers, secret=secret)
        await run.client.webhooks.rotate_secret(old.id)
        await run.client.webhooks.test(old.id, event_type="batch.completed")
        headers, body = receiver.got[1]
        for secret in (old.signing_secret, new.signing_secret):
            with pytest.raises(openai.InvalidWebhookSignatureError):
                run.client.webhooks.verify_signature(body, headers, secret=secret)


@pytest.mark.usefixtures("quick")
async def test_a_failed_delivery_is_made_again_with_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PAUSES", (0, 0, 0, 3600))
    async with receiving() as receiver:
        receiver.statuses = [500, 302, 404]
        async with running(tmp_path, private_webhooks=True) as run:
            await subscribe(run, receiver)
            await ended(run.client, await submit(run.client, [line("a")]))
            await until(lambda: len(receiver.got) == 4)
            assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
            assert receiver.elsewhere == 0  # redirects are not followed


@pytest.mark.usefixtures("quick")
async def test_deliveries_survive_a_restart(tmp_path: Path) -> None:
    async with receiving() as receiver:
        receiver.statuses = [503]
        async with running(tmp_path, private_webhooks=True) as run:
            endpoint = await subscribe(run, receiver)
            batch = await ended(run.client, await submit(run.client, [line("a")]))
            await until(lambda: len(receiver.got) == 1)
        storage = Storage(f"sqlite:///{tmp_path / 'serve.db'}")
        async with storage.write() as connection:
            row = (await connection.execute(select(deliveries))).mappings().one()
            assert (row["attempts"], row["delivered_at"]) == (1, None)
            assert row["due_at"] > row["created_at"] + 1  # not at once
            await connection.execute(update(deliveries).values(due_at=0.0))
        await storage.close()
        async with running(tmp_path, private_webhooks=True) as run:
            await until(lambda: len(receiver.got) == 2)
            headers, body = receiver.got[1]
            event: Any = run.client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
            assert event.data.id == batch.id


@pytest.mark.usefixtures("quick")
async def test_deliveries_go_on_after_an_error_of_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(self: Storage) -> Any:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    async with running(tmp_path, private_webhooks=True) as run, receiving() as receiver:
        await subscribe(run, receiver)
        with monkeypatch.context() as patched:
            patched.setattr(Storage, "read", down)
            patched.setattr(Storage, "write", down)
            await until(lambda: "webhooks wait" in caplog.text)
            await until(lambda: caplog.text.count("can't be used") > 2)
        batch = await submit(run.client, [line("a")])
        assert (await ended(run.client, batch)).status == "completed"
        await until(lambda: receiver.got)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:1/",
        "https://[::1]:1/",
        "https://localhost:1/",
        "https://[::ffff:10.0.0.1]/",
        "https://0x7f.1/",
    ],
)
async def test_private_addresses_are_not_reached(tmp_path: Path, url: str) -> None:
    async with running(tmp_path) as run:
        endpoint = await run.client.webhooks.create(name="a", url=url, event_types=["batch.completed"])
        with pytest.raises(openai.BadRequestError, match="public"):
            await run.client.webhooks.test(endpoint.id, event_type="batch.completed")


PRIVATE = (
    "127.0.0.1 10.1.2.3 192.168.0.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 "
    "::1 fe80::1 fc00::1 ::ffff:127.0.0.1 2002:7f00:1:: 64:ff9b::7f00:1"
)


def test_no_address_of_a_private_kind_is_public() -> None:
    assert [address for address in PRIVATE.split() if is_public(ip_address(address))] == []


def test_pauses_grow_over_about_a_day() -> None:
    assert list(delivery.PAUSES) == sorted(delivery.PAUSES)
    assert 12 * 3600 < sum(delivery.PAUSES) < 48 * 3600
