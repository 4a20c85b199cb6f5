"""A pool over a simulated fleet, and what the fleet's servers saw of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aurora_pool import PromptOptions, VLLMPool
from aurora_pool.testing import AgentProfile, Fault, ReceivedRequest, SimulatedAgent, SimulatedFleet

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
INSTANT = AgentProfile(instant=True)
"""Answers at once: for tests of everything but time."""
SMALL = AgentProfile(slots=16, median_length=50)
"""Few slots and short answers: for tests in which time passes."""


@asynccontextmanager
async def running(
    agents: int = 2,
    *,
    profile: AgentProfile | Sequence[AgentProfile] = INSTANT,
    faults: Mapping[int, Sequence[Fault]] | None = None,
    tags: Sequence[Mapping[str, str]] | None = None,
    **options: Any,
) -> AsyncGenerator[tuple[SimulatedFleet, VLLMPool]]:
    """Run a pool, with these options and those of :class:`PromptOptions`, over a fleet; prompts are sent raw."""
    names = ("prompt_format", "on_too_long", "stream")
    prompting = PromptOptions(
        **{"prompt_format": "raw", **{name: options.pop(name) for name in names if name in options}}
    )
    async with (
        SimulatedFleet(agents, profile=profile, faults=faults, tags=tags) as fleet,
        VLLMPool(fleet.endpoints, prompting=prompting, rng=random.Random(1), **options) as pool,
    ):
        yield fleet, pool


def lists_at(agent: SimulatedAgent) -> list[ReceivedRequest]:
    """The list requests that an agent received, probes left out."""
    return [request for request in agent.requests if request.path == COMPLETIONS and request.body["prompt"] != ["ping"]]


def chats_at(agent: SimulatedAgent) -> list[ReceivedRequest]:
    """The chat requests that an agent received."""
    return [request for request in agent.requests if request.path == CHAT]


def sizes(fleet: SimulatedFleet) -> list[list[int]]:
    """How many prompts each list request carried, agent by agent."""
    return [[request.prompts for request in lists_at(agent)] for agent in fleet.agents]


def prompts_at(agent: SimulatedAgent) -> list[Any]:
    """Every prompt that an agent received in list requests."""
    return [prompt for request in lists_at(agent) for prompt in request.body["prompt"]]


def running_sequences(fleet: SimulatedFleet) -> int:
    """How many sequences the fleet's engines hold."""
    return sum(
        agent.server.engine_loop.engine.running + agent.server.engine_loop.engine.waiting for agent in fleet.agents
    )


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()
