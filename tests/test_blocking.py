"""The pool without await: in scripts, in threads, and where an event loop runs already."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from aurora_pool import (
    AgentEndpoint,
    ConfigError,
    NoAgentsError,
    PoolClosedError,
    Prompt,
    PromptOptions,
    Timeouts,
    VLLMPool,
)
from aurora_pool.embeddings import EmbeddingPool, scatter_gather_embeddings
from aurora_pool.patterns import scatter_gather
from aurora_pool.testing import AgentProfile, SimulatedFleet

RAW = PromptOptions(prompt_format="raw")


@pytest.fixture
def fleet() -> Iterator[SimulatedFleet]:
    """Servers in a thread of their own: the tests are plain functions."""
    profile = AgentProfile(slots=64, median_length=20, reply=lambda prompt: f"You said: {prompt}")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(SimulatedFleet(2, profile=profile, time_scale=50.0)) as fleet,
    ):
        yield fleet


def test_a_plain_script(fleet: SimulatedFleet) -> None:
    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        assert pool.ask("a", 20).text == "You said: a"
        assert [r.text for r in pool.send_all_batched(["a", "b"], 20)] == ["You said: a", "You said: b"]
        assert [r.success for r in pool.send_all(["a", "b"], 20)] == [True, True]
        assert pool.run(VLLMPool.post, 1, "a", max_tokens=20).agent_index == 1
        assert [r.success for r in pool.run(scatter_gather, ["a", "b", "c"], max_tokens=20)] == [True] * 3
        assert pool.pool.statistics().prompts_failed == 0


def test_what_it_is_and_views_of_it(fleet: SimulatedFleet) -> None:
    pool = VLLMPool(fleet.endpoints, prompting=RAW).sync()
    assert (len(pool), pool.size, pool.endpoints) == (2, 2, tuple(fleet.endpoints))
    assert pool.statistics().prompts_done == 0
    with pool:
        assert pool.run(lambda pool: pool.select([1]).ask("a", 20)).text == "You said: a"
        assert [r.success for r in pool.send_all_batched(["a"], 20, weight=2.0, priority=1)] == [True]
        assert [index for index, _ in pool.iter_responses(["a"], 20, weight=2.0, priority=1)] == [0]
        assert pool.statistics().prompts_done == 3
        with pytest.raises(ConfigError, match="weight: expected a number above 0"):
            pool.send_all_batched(["a"], weight=0)


def test_iterating_and_leaving_early(fleet: SimulatedFleet) -> None:
    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        found = dict(pool.iter_responses((f"p{i}" for i in range(300)), 20))
        assert [found[i].text for i in range(300)] == [f"You said: p{i}" for i in range(300)]
        for _index, response in pool.iter_responses((Prompt(f"p{i}") for i in range(10_000)), 20):
            assert response.success
            break
        assert pool.ask("a", 20).success
        assert pool.pool.statistics().in_flight == 0


def test_several_threads_at_a_time(fleet: SimulatedFleet) -> None:
    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool, ThreadPoolExecutor(8) as threads:

        def work(thread: int) -> list[str]:
            return [response.text for response in pool.send_all_batched([f"{thread}-{i}" for i in range(40)], 20)]

        found = list(threads.map(work, range(16)))
        assert found == [[f"You said: {thread}-{i}" for i in range(40)] for thread in range(16)]


async def test_where_an_event_loop_runs_already_as_in_a_notebook(fleet: SimulatedFleet) -> None:
    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        assert pool.ask("a", 20).success
    assert asyncio.get_running_loop().is_running()


def test_errors_reach_the_caller_and_nothing_is_left(fleet: SimulatedFleet) -> None:
    threads = threading.active_count()
    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        with pytest.raises(ConfigError, match="prompt 1"):
            pool.send_all_batched(["a", None])  # type: ignore[list-item]
        with pytest.raises(ConfigError, match="prompts"):
            next(pool.iter_responses("one string"))
    for again in (lambda: pool.ask("a"), pool.start, lambda: next(pool.iter_responses(["a"]))):
        with pytest.raises(PoolClosedError, match="this pool is closed"):
            again()
    alone = VLLMPool([AgentEndpoint("127.0.0.1", 1)], timeouts=Timeouts(patience=0.1)).sync()
    with pytest.raises(ConfigError, match="this pool is not started: use 'with pool"):
        alone.ask("a")
    with pytest.raises(NoAgentsError):
        alone.start()
    with pytest.raises(PoolClosedError):
        alone.ask("a")
    deadline = time.monotonic() + 20.0
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_what_is_no_async_function_of_the_pool_is_refused(fleet: SimulatedFleet) -> None:
    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        run: Any = pool.run
        coroutine = pool.pool.ask("a")
        for given, named in [(3, "3"), (coroutine, "<coroutine"), (lambda pool: pool.size, "one that gives 2")]:
            with pytest.raises(ConfigError, match=f"function: expected an async function of the pool, got {named}"):
                run(given)
        coroutine.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as a shell gives it, which a background process ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal that ends the process there")
def test_an_interruption_cancels_what_is_in_flight(fleet: SimulatedFleet, interruptible: None) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def wait(_pool: VLLMPool) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupt() -> None:
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            pool.run(wait)
        thread.join()
        assert cancelled.wait(20.0)
        assert pool.ask("a", 20).success


def test_an_interruption_before_the_starter_knows_its_task_cancels_it_all_the_same(
    fleet: SimulatedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def wait(_pool: VLLMPool) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    start, interruptions = BlockingPortal.start_task_soon, iter([KeyboardInterrupt])

    def interrupted(portal: BlockingPortal, function: Any, *args: Any, **options: Any) -> Any:
        future = start(portal, function, *args, **options)
        for interruption in interruptions:
            begun.wait()
            raise interruption
        return future

    with VLLMPool(fleet.endpoints, prompting=RAW).sync() as pool:
        with monkeypatch.context() as patch:
            patch.setattr(BlockingPortal, "start_task_soon", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.run(wait)
        assert cancelled.wait(20.0)
        assert pool.ask("a", 20).success


def test_embeddings(fleet: SimulatedFleet) -> None:
    with EmbeddingPool(fleet.endpoints).sync() as pool:
        assert pool.run(scatter_gather_embeddings, ["a", "b"]).shape[0] == 2
