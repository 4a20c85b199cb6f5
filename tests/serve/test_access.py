"""Who may come in, and what they see."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

from aurora_pool import ConfigError
from aurora_pool.serve.keys import KeyRing, load_secret
from aurora_pool.serve.options import UserLimits
from aurora_pool.serve.storage import Storage
from tests.serve.running import ended, line, make_keys, running, submit


async def test_without_keys_only_this_machine_is_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no key"):
        async with running(tmp_path, host="0.0.0.0"):  # noqa: S104 - that is what is refused
            pass
    async with running(tmp_path, host="0.0.0.0", no_auth=True) as run:  # noqa: S104 - nobody else comes
        run.server.address = f"http://127.0.0.1:{run.server.port}"
        async with run.http.get(f"{run.server.address}/v1/models") as reply:
            assert reply.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_web_pages_cannot_use_a_server_without_keys(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async with running(tmp_path) as run, run.http.get(f"{run.server.address}/v1/models", headers=headers) as reply:
        assert reply.status == status


async def test_every_path_but_two_needs_a_key(tmp_path: Path) -> None:
    [key] = await make_keys(tmp_path, "ann")
    async with running(tmp_path) as run:
        good = {"Authorization": f"Bearer {key}"}
        async with run.http.get(f"{run.server.address}/openapi.json", headers=good) as reply:
            paths = (await reply.json())["paths"]
        for path, methods in paths.items():
            for method in methods:
                url = f"{run.server.address}{path.replace('{', '').replace('}', '')}"
                for headers in ({}, {"Authorization": "Bearer ap-wrong"}, {"Authorization": f"Basic {key}"}):
                    async with run.http.request(method, url, headers=headers) as reply:
                        assert (reply.status == 401) is (path not in ("/health", "/ready")), path
        with pytest.raises(openai.AuthenticationError) as refused:
            await run.client.models.list()
        assert refused.value.code == "invalid_api_key"
        assert (await run.client_of(key).models.list()).data


async def test_keys_are_kept_as_hashes_only(tmp_path: Path) -> None:
    [key] = await make_keys(tmp_path, "ann")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    for name in ("serve.db", "secret"):
        assert key.removeprefix("ap-").encode() not in (tmp_path / name).read_bytes()
    with closing(sqlite3.connect(tmp_path / "serve.db")) as database:
        rows = database.execute("select hash, hint from keys").fetchall()
    assert [(len(hashed), hint) for hashed, hint in rows] == [(64, key[-4:])]


async def test_a_further_key_changes_only_what_is_given(tmp_path: Path) -> None:
    storage = Storage(f"sqlite:///{tmp_path / 'serve.db'}")
    await storage.open()
    ring = KeyRing(storage, load_secret(tmp_path), UserLimits())
    limits = {"tokens_per_day": 100, "batches_running": 2}
    _, first = await ring.create("root", role="admin", weight=2.0, limits=limits)

    phone, second = await ring.create("root", name="phone")
    assert phone.role == "admin"
    for text in (first, second):
        caller = await ring.caller_of(text)
        assert caller is not None
        assert (caller.admin, caller.weight) == (True, 2.0)
        assert caller.limits == UserLimits(tokens_per_day=100, batches_running=2)

    await ring.create("root", role="user", limits={"tokens_per_day": 200})
    caller = await ring.caller_of(first)
    assert caller is not None
    assert (caller.admin, caller.weight) == (False, 2.0)
    assert caller.limits == UserLimits(tokens_per_day=200, batches_running=2)

    lifted, _ = await ring.create("root", limits={"tokens_per_day": None})
    assert (lifted.weight, lifted.limits) == (2.0, {"tokens_per_day": None, "batches_running": 2})
    limited = KeyRing(storage, load_secret(tmp_path), UserLimits(tokens_per_day=5, requests_per_minute=6))
    caller = await limited.caller_of(first)
    assert caller is not None
    assert caller.limits == UserLimits(requests_per_minute=6, batches_running=2)  # none is none, whatever the server's
    await storage.close()


async def test_forms_and_requests_for_a_further_key_leave_the_user_as_he_is(tmp_path: Path) -> None:
    [root] = await make_keys(tmp_path, "root", tokens_per_day=100)
    async with running(tmp_path) as run:
        form = {"user": "root", "name": "phone", "role": "", "weight": "", "tokens_per_day": ""}
        async with run.http.post(f"{run.server.address}/ui/keys", headers=bearer(root), data=form) as reply:
            assert reply.status == 200
        url = f"{run.server.address}/v1/admin/keys"
        async with run.http.post(url, headers=bearer(root), json={"user": "root"}) as reply:
            assert (await reply.json())["role"] == "admin"


async def test_many_requests_at_once_look_a_key_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [text] = await make_keys(tmp_path, "ann")
    storage = Storage(f"sqlite:///{tmp_path / 'serve.db'}")
    await storage.open()
    keys = KeyRing(storage, load_secret(tmp_path), UserLimits())
    queries = []
    read = storage.read

    def counted() -> Any:
        queries.append(1)
        return read()

    monkeypatch.setattr(storage, "read", counted)
    callers = await asyncio.gather(*(keys.caller_of(text) for _ in range(50)))
    assert {caller.user for caller in callers if caller is not None} == {"ann"}
    assert all(await asyncio.gather(*(keys.exist() for _ in range(50))))
    assert len(queries) == 2
    await storage.close()


async def test_a_key_of_another_secret_and_a_revoked_one_are_worthless(tmp_path: Path) -> None:
    key, root = await make_keys(tmp_path, "ann", "root")
    async with running(tmp_path) as run:
        admin = {"Authorization": f"Bearer {root}"}
        url = f"{run.server.address}/v1/admin/keys"
        assert (await run.client_of(key).models.list()).data
        async with run.http.get(url, headers={"Authorization": f"Bearer {key}"}) as reply:
            assert reply.status == 403
        async with run.http.get(url, headers=admin) as reply:
            listed = (await reply.json())["data"]
        assert [(each["user"], each["role"]) for each in listed] == [("ann", "user"), ("root", "admin")]
        assert not any("key" in each or "hash" in each for each in listed)
        async with run.http.delete(f"{url}/{listed[0]['id']}", headers=admin) as reply:
            assert reply.status == 200
        with pytest.raises(openai.AuthenticationError):
            await run.client_of(key).models.list()
        async with run.http.delete(f"{url}/{listed[0]['id']}", headers=admin) as reply:
            assert reply.status == 404
        async with run.http.post(url, headers=admin, json={"user": "bob", "weight": 2}) as reply:
            fresh = (await reply.json())["key"]
        assert (await run.client_of(fresh).models.list()).data
    (tmp_path / "secret").write_bytes(b"x" * 32)
    async with running(tmp_path) as run:
        with pytest.raises(openai.AuthenticationError):
            await run.client_of(fresh).models.list()


async def test_users_see_their_own_only(tmp_path: Path) -> None:
    ann, bob, root = await make_keys(tmp_path, "ann", "bob", "root")
    async with running(tmp_path) as run:
        mine, others, admins = map(run.client_of, (ann, bob, root))
        batch = await ended(mine, await submit(mine, [line("a")]))
        names = [batch.input_file_id, str(batch.output_file_id)]
        assert not (await others.batches.list()).data
        assert not (await others.files.list()).data
        for name in names:
            for call in (others.files.retrieve, others.files.content, others.files.delete):
                with pytest.raises(openai.NotFoundError):
                    await call(name)
        for read in (others.batches.retrieve, others.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await read(batch.id)
        with pytest.raises(openai.NotFoundError):
            await others.batches.create(input_file_id=names[0], endpoint="/v1/completions", completion_window="24h")
        endpoint = await mine.webhooks.create(name="n", url="https://example.org/", event_types=["batch.failed"])
        with pytest.raises(openai.NotFoundError):
            await others.webhooks.retrieve(endpoint.id)
        async with run.http.get(f"{run.server.address}/api/state", headers=bearer(bob)) as reply:
            assert (await reply.json())["batches"] == []
        assert (await admins.batches.retrieve(batch.id)).id == batch.id
        for name in names:  # by their ids, and no more than that
            assert (await admins.files.retrieve(name)).id == name
            assert b"custom_id" in (await admins.files.content(name)).content
            with pytest.raises(openai.NotFoundError):
                await admins.files.delete(name)
        assert not (await admins.files.list()).data
        assert not (await admins.batches.list()).data
        async with run.http.get(f"{run.server.address}/api/state", headers=bearer(root)) as reply:
            assert [each["id"] for each in (await reply.json())["batches"]] == [batch.id]


async def test_a_page_after_an_id_of_another_user_is_as_one_after_an_unknown_id(tmp_path: Path) -> None:
    ann, bob, root = await make_keys(tmp_path, "ann", "bob", "root")
    async with running(tmp_path) as run:
        mine = run.client_of(ann)
        batch = await submit(mine, [line("a")])
        hook = await mine.webhooks.create(name="n", url="https://example.org/", event_types=["batch.failed"])
        created = {"files": batch.input_file_id, "batches": batch.id, "webhook_endpoints": hook.id}
        for kind, name in created.items():
            for key, status in ((ann, 200), (bob, 404), (root, 404)):
                url = f"{run.server.address}/v1/{kind}?after={name}"
                async with run.http.get(url, headers=bearer(key)) as reply:
                    assert reply.status == status, (kind, key)
        for key, status in ((ann, 200), (bob, 404), (root, 200)):  # whose list of the dashboard is everybody's
            async with run.http.get(f"{run.server.address}/ui/jobs?after={batch.id}", headers=bearer(key)) as reply:
                assert reply.status == status


async def test_only_administrators_put_a_batch_before_those_of_others(tmp_path: Path) -> None:
    ann, root = await make_keys(tmp_path, "ann", "root")
    async with running(tmp_path) as run:
        mine, admins = map(run.client_of, (ann, root))

        with pytest.raises(openai.PermissionDeniedError, match="Only administrators") as refused:
            await submit(mine, [line("a")], extra_body={"priority": 1})

        assert (refused.value.param, refused.value.code) == ("priority", "insufficient_permissions")
        await ended(mine, await submit(mine, [line("a")], extra_body={"priority": -1}))
        await ended(admins, await submit(admins, [line("a")], extra_body={"priority": 1}))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_weights_and_limits_of_those_who_are_asked_for(tmp_path: Path) -> None:
    storage = Storage(f"sqlite:///{tmp_path / 'a.db'}")
    await storage.open()
    ring = KeyRing(storage, load_secret(tmp_path), UserLimits(batches_running=3))
    for user in ("ann", "bob"):
        await ring.create(user, weight=2.0, limits={"tokens_per_day": 7})
    assert await ring.weights({"ann", "new"}) == {
        "ann": (2.0, UserLimits(tokens_per_day=7, batches_running=3)),
        "new": (1.0, UserLimits(batches_running=3)),
    }
    await storage.close()
