"""Agents divided among drivers: each has one driver that needs agents, whoever is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool import AgentEndpoint, ConfigError, NoAgentsError, VLLMPool
from aurora_pool.sharing import AgentShare, Part, find_rank, parse_part
from aurora_pool.sharing.agents import Note, allot
from aurora_pool.testing.clock import run_simulated

FLEET = [AgentEndpoint(f"a{number}") for number in range(8)]


@given(st.integers(1, 6), st.integers(0, 40), st.data())
def test_every_agent_has_exactly_one_driver_that_needs_agents(count: int, agents: int, data: st.DataObject) -> None:
    state = {index: data.draw(st.sampled_from(["needs", "lends", "gone"])) for index in range(count)}
    notes = {index: Note(index, needs=kind == "needs") for index, kind in state.items() if kind != "gone"}
    gone = [index for index, kind in state.items() if kind == "gone"]
    assigned: list[int] = []
    for index, note in notes.items():
        if note.needs:
            others = [other for other in notes.values() if other.index != index]
            mine = allot(agents, Part(index, count), others, gone)
            assert mine[: len(range(index, agents, count))] == list(range(index, agents, count))
            assigned += mine
    assert sorted(assigned) == (list(range(agents)) if "needs" in state.values() else [])


class Board:
    """A roster whose others are set by hand."""

    every = 5.0

    def __init__(self) -> None:
        self.others: Mapping[str, str] = {}
        self.said: list[str] = []

    def beat(self, note: str = "") -> None:
        self.said.append(note)

    def refresh(self) -> None:
        pass

    def leave(self) -> None:
        pass


def test_agents_come_from_drivers_that_lend_or_are_gone_and_go_back() -> None:
    board = Board()
    seen: list[list[str]] = []

    async def work() -> None:
        share = AgentShare(board, Part(0, 4), takeover_after=30.0)
        seen.append([endpoint.host for endpoint in share.select(FLEET)])
        board.others = {"b": '{"index": 1}', "c": '{"index": 2, "needs": false}', "d": "not of this version"}
        task = asyncio.create_task(share.follow(lambda chosen: seen.append([each.host for each in chosen])))
        await asyncio.sleep(10)
        await asyncio.sleep(30)  # number 3 never comes
        board.others = {"b": '{"index": 1}', "c": '{"index": 2}', "d": '{"index": 3}'}
        await asyncio.sleep(5)
        pool = VLLMPool(FLEET, model="m")
        share.tell(pool.statistics(), exhausted=True)
        await pool.close()
        await asyncio.sleep(5)
        task.cancel()

    run_simulated(work())
    assert seen == [["a0", "a4"], ["a0", "a4", "a2"], ["a0", "a4", "a2", "a3"], ["a0", "a4"]]
    assert board.said[0] == '{"index":0,"needs":true}'
    assert board.said[-1] == '{"index":0,"needs":false}'


def test_a_driver_without_agents_of_its_own_is_told() -> None:
    with pytest.raises(NoAgentsError, match="share 8/9: the hostfile has 8 agents"):
        AgentShare(Board(), Part(8, 9)).select(FLEET)


def test_ranks_are_found_where_launchers_put_them() -> None:
    array = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "4"}
    assert find_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", **array}) == Part(3, 4)
    assert find_rank({"PALS_RANKID": "2", "PALS_SIZE": "8"}) == Part(2, 8)
    assert parse_part("auto", environment={"PMI_RANK": "0", "PMI_SIZE": "2"}) == Part(0, 2)
    for text in ("4/4", "1", "a/b", "0/0", "-1/4"):
        with pytest.raises(ConfigError, match="expected a part"):
            parse_part(text)
    with pytest.raises(ConfigError, match="no rank is set"):
        parse_part("auto", environment={})
