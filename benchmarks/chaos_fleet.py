"""The fleets of the chaos benchmark: which agents fail and how, and which prompts are faulty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aurora_pool.testing import AgentProfile, Fault, SimulatedFleet

SLOTS = 64
BAD, POISON = "a bad prompt", "a poison prompt"
RESTART = 10.0
"""Seconds after which an agent that was poisoned is back."""
SEED = 1


@dataclass(frozen=True)
class Event:
    """Something that happens to one agent, at a share of the time that a healthy fleet needs."""

    at: float
    agent: int
    action: Any
    arguments: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One row: speeds, what happens, and which prompts are faulty."""

    name: str
    speeds: Sequence[float] = (1.0,) * 8
    events: Sequence[Event] = ()
    bad: bool = False
    poison: bool = False


EVERYTHING = (
    Event(0.0, 0, "slow", {"factor": 5.0}),
    Event(0.0, 1, "die"),
    Event(0.3, 2, "die"),
    Event(0.15, 3, "hang"),
    Event(0.2, 4, "drain"),
    Event(0.1, 5, "flap", {"up": 6.0, "down": 2.0}),
)

CASES = (
    Case("8 equal"),
    Case("7 x1, one x0.25", (1.0,) * 7 + (0.25,)),
    Case("4 x1, 4 x0.5", (1.0,) * 4 + (0.5,) * 4),
    Case("one 5x slow", events=EVERYTHING[:1]),
    Case("one dead from the start", events=EVERYTHING[1:2]),
    Case("one dies at 30%", events=EVERYTHING[2:3]),
    Case("one hangs", events=EVERYTHING[3:4]),
    Case("one drains", events=EVERYTHING[4:5]),
    Case("one flaps", events=EVERYTHING[5:6]),
    Case("one bad prompt", bad=True),
    Case("one poison prompt", poison=True),
    Case("all of these at once", events=EVERYTHING, bad=True, poison=True),
)


def prompts_of(case: Case, count: int) -> list[str]:
    """The prompts of a case, the faulty ones among them."""
    prompts = [f"Tell me about the number {number}." for number in range(count)]
    if case.bad:
        prompts[count // 3] += f" This is {BAD}."
    if case.poison:
        prompts[count // 4] += f" This is {POISON}."
    return prompts


class Watch:
    """Sees to a simulated fleet: new processes have the old faults, poisoned ones come back; tokens are counted."""

    def __init__(self, fleet: SimulatedFleet, case: Case) -> None:
        self._fleet = fleet
        self._case = case
        self._servers: dict[Any, None] = {}
        self._down: dict[int, float] = {}
        self._gone = {event.agent for event in case.events if event.action != "slow"}
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            for agent in self._fleet.agents:
                if agent.server not in self._servers:
                    self._servers[agent.server] = None
                    if self._case.bad:
                        agent.reject(BAD)
                    if self._case.poison:
                        agent.poison(POISON)
                if agent.listening or agent.index in self._gone:
                    self._down.pop(agent.index, None)
                elif now() >= self._down.setdefault(agent.index, now()) + RESTART:
                    agent.revive()
            await asyncio.sleep(0.1)

    def tokens(self) -> int:
        """How many tokens all servers have generated."""
        return sum(server.engine_loop.engine.tokens for server in self._servers)

    def stop(self) -> None:
        """See to nothing any more."""
        self._task.cancel()


@asynccontextmanager
async def serving(case: Case, healthy: float) -> AsyncIterator[tuple[SimulatedFleet, Watch]]:
    """Serve a case's fleet, its faults scheduled."""
    faults: dict[int, list[Fault]] = {}
    for event in case.events:
        fault = Fault(action=event.action, at=event.at * healthy, arguments=dict(event.arguments))
        faults.setdefault(event.agent, []).append(fault)
    profiles = [AgentProfile(slots=SLOTS, speed=speed) for speed in case.speeds]
    async with SimulatedFleet(len(profiles), profile=profiles, faults=faults, seed=SEED) as fleet:
        watch = Watch(fleet, case)
        await asyncio.sleep(0)
        yield fleet, watch
        watch.stop()


def serve_case(job: Mapping[str, Any]) -> None:
    """Serve a case in real time until terminated, for the peers."""

    async def run() -> None:
        async with serving(CASES[job["case"]], job["healthy"]) as (fleet, _):
            fleet.write_hostfile(job["hostfile"])
            await asyncio.Event().wait()

    asyncio.run(run())
