"""How much users may ask: requests a minute, tokens a day, batches."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import select

from aurora_pool import ConfigError
from aurora_pool.serve import batch_run
from aurora_pool.serve import limits as limits_module
from aurora_pool.serve.limits import RequestRates, TokenAccounts
from aurora_pool.serve.options import ServerOptions, UserLimits
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import token_days
from aurora_pool.testing import AgentProfile
from tests.serve.databases import PausedStorage
from tests.serve.running import MODEL, Running, ended, line, make_keys, running, submit, until

SLOW = AgentProfile(slots=64, median_length=400.0)
"""An agent that needs longer for a thousand answers than to tell of the first, and not long for those in flight."""


@pytest.fixture
def endless_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no midnight come: it would give everybody new tokens."""
    monkeypatch.setattr(limits_module, "DAY", 10**12)


async def test_requests_a_minute(tmp_path: Path) -> None:
    ann, bob = await make_keys(tmp_path, "ann", "bob", requests_per_minute=1)
    async with running(tmp_path) as run:
        client = run.client_of(ann)
        await client.completions.create(model=MODEL, prompt="p", max_tokens=1)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.completions.create(model=MODEL, prompt="p", max_tokens=1)
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        await run.client_of(bob).completions.create(model=MODEL, prompt="p", max_tokens=1)


@pytest.mark.usefixtures("endless_day")
async def test_tokens_a_day(tmp_path: Path) -> None:
    [ann] = await make_keys(tmp_path, "ann", tokens_per_day=10)
    async with running(tmp_path) as run:
        client = run.client_of(ann)
        for stream in (False, True):
            reply: Any = await client.completions.create(model=MODEL, prompt="p", max_tokens=16, stream=stream)
            if stream:
                async for _ in reply:
                    pass
        with pytest.raises(openai.RateLimitError, match="tokens a day"):
            await client.completions.create(model=MODEL, prompt="p", max_tokens=1)
    async with running(tmp_path) as run:  # it is remembered
        with pytest.raises(openai.RateLimitError):
            await run.client_of(ann).completions.create(model=MODEL, prompt="p", max_tokens=1)
        batch = await submit(run.client_of(ann), [line("a")])
        await until(lambda: _status_is(run.client_of(ann), batch.id, "in_progress"))


async def test_tokens_count_while_they_are_written(paused: PausedStorage) -> None:
    accounts = TokenAccounts(paused)
    assert await accounts.used("ann") == 0
    accounts.charge("ann", 5)
    paused.may_write.clear()
    writing = asyncio.create_task(accounts.flush())
    await paused.reached.wait()
    assert await accounts.used("ann") == 5
    paused.may_write.set()
    await writing
    assert await accounts.used("ann") == 5


async def test_tokens_that_are_written_while_others_are_read_count(paused: PausedStorage) -> None:
    accounts = TokenAccounts(paused)
    accounts.charge("ann", 7)
    paused.may_read.clear()
    reading = asyncio.create_task(accounts.used("ann"))
    await paused.reached.wait()  # it has read that there is nothing
    writing = asyncio.create_task(accounts.flush())
    paused.may_read.set()
    assert await reading == 7
    await writing
    assert await accounts.used("ann") == 7


async def test_tokens_that_have_just_been_written_count_once(paused: PausedStorage) -> None:
    accounts = TokenAccounts(paused)
    accounts.charge("ann", 7)
    paused.may_go_on.clear()
    writing = asyncio.create_task(accounts.flush())
    await paused.reached.wait()  # it has committed, and does not know yet
    reading = asyncio.create_task(accounts.used("ann"))
    for _ in range(20):  # time enough for it to read, if it did
        async with paused.read() as connection:
            await connection.execute(select(token_days))
    paused.may_go_on.set()
    await writing
    assert await reading == 7
    assert await accounts.used("ann") == 7


async def test_tokens_are_told_while_others_are_written(paused: PausedStorage) -> None:
    now = 86_400.0 * 3
    accounts = TokenAccounts(paused, lambda: now)
    assert await accounts.used("ann") == 0
    accounts.charge("ann", 5)
    paused.may_write.clear()
    writing = asyncio.create_task(accounts.flush())
    await paused.reached.wait()
    now += 60.0  # what was read is old
    reading = asyncio.create_task(accounts.used("ann"))
    for _ in range(3):
        await asyncio.sleep(0)
    told = reading.done()
    paused.may_write.set()
    await writing
    assert (told, await reading, await accounts.used("ann")) == (True, 5, 5)


async def _status_is(client: openai.AsyncOpenAI, batch_id: str, status: str) -> bool:
    return (await client.batches.retrieve(batch_id)).status == status


async def _any_done(client: openai.AsyncOpenAI, batch_id: str) -> bool:
    counts = (await client.batches.retrieve(batch_id)).request_counts
    return counts is not None and counts.completed > 0


@pytest.mark.usefixtures("quick", "endless_day")
@pytest.mark.parametrize("lists", [False, True])
async def test_a_batch_stops_when_the_tokens_of_the_day_are_used_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lists: bool
) -> None:
    caplog.set_level(logging.INFO, "aurora_pool")
    lines = [line(f"r{i}", [f"a{i}", f"b{i}"] if lists else None) for i in range(1000)]
    limits = UserLimits(tokens_per_day=100)  # of users without a key too
    async with running(tmp_path, agents=1, profile=SLOW, limits=limits) as run:
        batch = await submit(run.client, lines)
        await until(functools.partial(_any_done, run.client, batch.id))
        await until(functools.partial(_run_now, run, 0))
        found = await run.client.batches.retrieve(batch.id)
        assert found.request_counts is not None
        assert (found.status, 0 < found.request_counts.completed < 1000) == ("in_progress", True)
        own = (found.model_extra or {})["aurora_pool"]
        assert (own["eta_seconds"], own["requests_per_second"]) == (None, None)
        assert own["waiting"] == "Limit of 100 tokens a day reached."
        assert caplog.text.count("the batches of local wait until the day (UTC) ends: Limit of 100 tokens") == 1
        for page in ("ui/jobs", f"ui/jobs/{batch.id}", "api/state", "v1/batches"):
            async with run.http.get(f"{run.server.address}/{page}") as reply:
                assert "Limit of 100 tokens a day reached." in await reply.text(), page
        with pytest.raises(openai.RateLimitError, match="tokens a day"):
            await run.client.completions.create(model=MODEL, prompt="p", max_tokens=1)
    async with running(tmp_path) as run:
        done = await ended(run.client, batch)
        assert (done.model_extra or {})["aurora_pool"]["waiting"] is None
        assert f"{batch.id} goes on: " in caplog.text
        assert (done.status, done.usage is not None) == ("completed", True)
    with closing(sqlite3.connect(tmp_path / "serve.db")) as database:
        [charged] = database.execute("select sum(tokens) from token_days where user = 'local'").fetchone()
    assert done.usage is not None
    assert charged == done.usage.total_tokens  # each token once, whatever was parked


@pytest.mark.usefixtures("quick", "endless_day")
async def test_a_batch_that_is_answered_ends_without_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    limits = UserLimits(tokens_per_day=1)
    with monkeypatch.context() as patched:
        patched.setattr(batch_run, "finalize", full)
        async with running(tmp_path, limits=limits) as run:
            batch = await submit(run.client, [line("a")])
            await until(functools.partial(_status_is, run.client, batch.id, "finalizing"))
            await until(functools.partial(_run_now, run, 0))
            with pytest.raises(openai.RateLimitError, match="a day reached"):
                await run.client.completions.create(model=MODEL, prompt="p", max_tokens=1)
            found = await run.client.batches.retrieve(batch.id)
            assert (found.model_extra or {})["aurora_pool"]["waiting"] is None
    async with running(tmp_path, limits=limits) as run:
        assert (await ended(run.client, batch)).status == "completed"


async def test_batches_running_holds_without_keys(tmp_path: Path) -> None:
    async with running(tmp_path, agents=1, limits=UserLimits(batches_running=1)) as run:
        run.fleet.agents[0].hang()
        for name in "abcd":  # where the last is validated, there was a turn for the second to begin
            batch = await submit(run.client, [line(name)])
            await until(functools.partial(_status_is, run.client, batch.id, "in_progress"))
        assert await _run_now(run, 1)


async def _run_now(run: Running, count: int) -> bool:
    async with run.http.get(f"{run.server.address}/metrics") as reply:
        return f"aurora_pool_serve_batches_running {count}.0" in await reply.text()


async def test_batches_queued(tmp_path: Path) -> None:
    [ann] = await make_keys(tmp_path, "ann", batches_queued=2)
    async with running(tmp_path, agents=1) as run:
        run.fleet.agents[0].hang()
        client = run.client_of(ann)
        for _ in range(2):
            await submit(client, [line("a")])
        with pytest.raises(openai.RateLimitError):
            await submit(client, [line("a")])


def test_a_limit_is_small_enough_to_count_with(tmp_path: Path) -> None:
    ServerOptions(data=tmp_path, limits=UserLimits(requests_per_minute=2**53 - 1))
    for name in UserLimits.__slots__:
        with pytest.raises(ConfigError, match=rf"limits.{name}: .* below 2\^53"):
            ServerOptions(data=tmp_path, limits=UserLimits(**{name: 10**400}))


def test_rates_fill_steadily() -> None:
    rates = RequestRates()
    assert [rates.take("u", 60, 0.0) for _ in range(61)] == [0.0] * 60 + [1.0]
    assert rates.take("u", 60, 1.0) == 0.0
    assert rates.take("u", 60, 1.5) == pytest.approx(0.5)
    assert rates.take("other", 60, 1.5) == 0.0


async def test_tokens_are_counted_by_day_and_across_restarts(tmp_path: Path) -> None:
    now = 86_400.0 * 3
    storage = Storage(f"sqlite:///{tmp_path / 'a.db'}")
    await storage.open()
    accounts = TokenAccounts(storage, lambda: now)
    accounts.charge("ann", 5)
    assert await accounts.used("ann") == 5
    await accounts.flush()
    accounts.charge("ann", 2)
    await accounts.flush()
    assert await TokenAccounts(storage, lambda: now).used("ann") == 7
    now += 86_400
    assert await accounts.used("ann") == 0
    await storage.close()
