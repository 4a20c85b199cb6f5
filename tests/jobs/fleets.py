"""Simulated servers over real HTTP, and what they have seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aurora_pool import PromptOptions, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet

PROMPTS = [{"id": f"p{number}", "prompt": f"Say {number}."} for number in range(200)]


def fleet_of(count: int, **profile: Any) -> SimulatedFleet:
    """A fleet whose agents have few slots and give short answers."""
    return SimulatedFleet(count, profile=AgentProfile(**({"slots": 8, "median_length": 40.0} | profile)))


@asynccontextmanager
async def pool_of(fleet: SimulatedFleet, **options: Any) -> AsyncIterator[VLLMPool]:
    """A pool that sends prompts raw."""
    async with VLLMPool(fleet.endpoints, **({"prompting": PromptOptions(prompt_format="raw")} | options)) as pool:
        yield pool


def received(fleet: SimulatedFleet) -> list[str]:
    """Every prompt that the servers got, in a list so that one sent twice counts twice."""
    lists = [request.body["prompt"] for request in fleet.requests if request.path == "/v1/completions"]
    return [prompt for prompts in lists for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
