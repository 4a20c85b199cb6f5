"""Progress of calls and patterns: told to a function, drawn on a terminal, and nothing elsewhere."""

from __future__ import annotations

import pytest

from aurora_pool import CallProgress, Response
from aurora_pool.patterns import scatter_gather, summarize, tree_reduce
from aurora_pool.patterns.tree import ReduceTree
from aurora_pool.progress import ProgressReport
from tests.patterns.fake_pool import FakePool
from tests.pool.running import SMALL, running

pytestmark = pytest.mark.simulated_clock


async def test_a_call_tells_how_far_it_is() -> None:
    told: list[CallProgress] = []
    async with running(2, profile=SMALL) as (fleet, pool):
        for agent in fleet.agents:
            agent.reject("p7", "not that one")
        prompts = [f"p{number}" for number in range(40)]
        await pool.send_all_batched(prompts, max_tokens=20, on_progress=told.append)
        counts = [progress.done for progress in told]
        assert counts == sorted(set(counts))
        assert counts[-1] == 40
        assert len(counts) > 2
        assert {progress.total for progress in told} == {40}
        assert told[-1].failed == 1
        told.clear()
        await scatter_gather(pool, iter(prompts), max_tokens=20, on_progress=told.append)
        assert {progress.total for progress in told} == {40}, "an iterator of a list knows its length"
        told.clear()
        await pool.send_all((prompt for prompt in prompts), max_tokens=20, on_progress=told.append)
        assert (told[-1].done, told[-1].total) == (40, None)


@pytest.mark.parametrize(("leaves", "fanin", "calls"), [(1, 8, 1), (8, 8, 9), (9, 8, 9 + 2 + 1), (3, 2, 3 + 1 + 1)])
async def test_a_reduction_counts_the_merges_to_come(leaves: int, fanin: int, calls: int) -> None:
    told: list[CallProgress] = []
    assert ReduceTree(leaves, fanin).calls_foreseen == calls
    items = list(range(leaves))
    result = await tree_reduce(FakePool(str), "a {item}", "b {responses}", fanin, items, on_progress=told.append)
    assert result.calls == calls
    assert [(progress.done, progress.total) for progress in told] == [(done, calls) for done in range(1, calls + 1)]


async def test_a_summary_tells_how_far_it_is() -> None:
    told: list[CallProgress] = []
    result = await summarize(FakePool(str), ["one " * 50, "two " * 50], chunk_tokens=30, on_progress=told.append)
    assert told[-1].done == told[-1].total == result.calls


def test_work_that_was_not_foreseen_counts_too() -> None:
    told: list[CallProgress] = []
    with ProgressReport(1, on_progress=told.append) as report:
        report.count([Response(True, "a"), Response(False, "")])
    assert [(progress.done, progress.failed, progress.total) for progress in told] == [(2, 1, 2)]


def test_what_can_not_be_told_is_none() -> None:
    assert CallProgress(0, 0, 10, 1.0).eta is None
    assert CallProgress(5, 0, None, 1.0).eta is None
    assert CallProgress(0, 0, 10, 0.0).prompts_per_second == 0.0


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressReport(4, progress=True) as report:
        report.count([Response(True, "a"), Response(False, "")])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2/4" in shown.err
    assert "1 failed" in shown.err


def test_elsewhere_nothing_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with ProgressReport(4, progress=True) as report:
        assert not report.wanted
        report.count([Response(True, "a")])
    assert capsys.readouterr() == ("", "")
