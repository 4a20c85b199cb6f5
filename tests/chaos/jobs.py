"""One job on a simulated fleet in which something goes wrong, and what came of it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aurora_pool import PoolStatistics, PromptOptions, Response, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, Fault, SimulatedFleet, run_simulated

AGENTS = 3
PROMPTS = [f"Tell me about the number {i}." for i in range(1400)]
PROFILE = AgentProfile(slots=64, median_length=10, shortest=2, longest=50, step_base=0.04, step_per_sequence=0.00015)
"""Few tokens in long steps: to simulate them costs less than many in short ones, and takes as many seconds there."""
POLL_EVERY = 0.05


@dataclass
class Outcome:
    """What a job came to; ``idle`` is for how many seconds each agent had nothing to do while prompts waited."""

    responses: list[Response]
    seconds: float
    statistics: PoolStatistics
    received: list[Counter[str]]
    idle: list[float]
    log: list[str] = field(default_factory=list)

    @property
    def failed(self) -> dict[int, str | None]:
        """The prompts without an answer, and why."""
        return {i: response.error_kind for i, response in enumerate(self.responses) if not response.success}

    @property
    def texts(self) -> list[str]:
        """The answers."""
        return [response.text for response in self.responses]

    def sent_again(self) -> dict[str, int]:
        """The prompts that the fleet received more than once, and how often."""
        total: Counter[str] = sum(self.received, Counter())
        return {prompt: times for prompt, times in total.items() if times > 1}


def run_job(
    faults: Mapping[int, Sequence[Fault]] | None = None,
    *,
    profile: AgentProfile | Sequence[AgentProfile] = PROFILE,
    prompts: Sequence[str] = PROMPTS,
    agents: int = AGENTS,
    **options: Any,
) -> Outcome:
    """Answer prompts on a fleet with these fault scripts, in simulated time."""
    return run_simulated(_job(faults or {}, profile, prompts, agents, options), debug=False)


async def _job(
    faults: Mapping[int, Sequence[Fault]],
    profile: AgentProfile | Sequence[AgentProfile],
    prompts: Sequence[str],
    agents: int,
    options: dict[str, Any],
) -> Outcome:
    prompting = PromptOptions(prompt_format="raw")
    rng = random.Random(1)
    options = {"model": "simulated-model", "prompting": prompting, "rng": rng, "timeouts": Timeouts(), **options}
    loop = asyncio.get_running_loop()
    async with (
        SimulatedFleet(agents, profile=profile, faults=faults, seed=1) as fleet,
        VLLMPool(fleet.endpoints, max_tokens=400, **options) as pool,
    ):
        idle = [0.0] * agents
        watcher = asyncio.create_task(_watch(fleet, pool, idle))
        began = loop.time()
        responses = await pool.send_all_batched(prompts)
        seconds = loop.time() - began
        watcher.cancel()
        received: list[Counter[str]] = [
            Counter(p for r in agent.requests if r.path == "/v1/completions" for p in r.body["prompt"] if p != "ping")
            for agent in fleet.agents
        ]
        return Outcome(responses, seconds, pool.statistics(), received, idle)


async def _watch(fleet: SimulatedFleet, pool: VLLMPool, idle: list[float]) -> None:
    while True:
        await asyncio.sleep(POLL_EVERY)
        statistics = pool.statistics()
        if statistics.queued:
            for agent in fleet.agents:
                busy = agent.server.engine_loop.engine.running
                if statistics.agents[agent.index].state == "in service" and not busy and agent.listening:
                    idle[agent.index] += POLL_EVERY
