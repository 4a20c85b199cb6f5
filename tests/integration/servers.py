"""What real servers say of themselves: the model they serve, and what they received, read from their own metrics."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from aurora_pool.hostfile import AgentEndpoint

PATIENCE = 300.0  # seconds; a server on a busy CPU takes several for one step, and notices nothing meanwhile

_SAMPLE = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Model:
    """The model that a fleet serves; ``context`` is its ``max_model_len``, in tokens."""

    name: str
    context: int


@dataclass(frozen=True)
class ServerMetrics:
    """One look at a server: sequences at work and waiting, tokens generated so far, HTTP requests answered so far.

    ``computed`` are the tokens of prompts so far that were not found in the prefix cache.
    """

    running: int
    waiting: int
    tokens: int
    completions: int
    chats: int
    computed: int

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self.running == self.waiting == 0


async def served_model(endpoint: AgentEndpoint) -> Model:
    """Ask a server for its first model."""
    first = json.loads(await _get(endpoint, "/v1/models"))["data"][0]
    return Model(first["id"], first["max_model_len"])


async def read_metrics(endpoint: AgentEndpoint) -> ServerMetrics:
    """Read a server's ``/metrics``."""
    text = await _get(endpoint, "/metrics")

    def total(name: str, label: str = "") -> int:
        values = [float(value) for found, labels, value in _SAMPLE.findall(text) if found == name and label in labels]
        return int(sum(values))

    return ServerMetrics(
        running=total("vllm:num_requests_running"),
        waiting=total("vllm:num_requests_waiting"),
        tokens=total("vllm:generation_tokens_total"),
        completions=total("http_requests_total", 'handler="/v1/completions"'),
        chats=total("http_requests_total", 'handler="/v1/chat/completions"'),
        computed=total("vllm:prefix_cache_queries_total") - total("vllm:prefix_cache_hits_total"),
    )


async def read_idle(endpoints: Sequence[AgentEndpoint]) -> list[ServerMetrics]:
    """Read every server's metrics once all are idle and nothing moves in them: a request is counted after its answer.

    Counters that stand still are not enough: on a busy machine one step of an engine may take longer than the look.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = await wait_until(endpoints, lambda metrics: metrics.idle)
            await asyncio.sleep(0.2)
            if seen == [await read_metrics(endpoint) for endpoint in endpoints]:
                return seen


async def wait_until(
    endpoints: Sequence[AgentEndpoint], condition: Callable[[ServerMetrics], bool]
) -> list[ServerMetrics]:
    """Read every server's metrics until each meets the condition."""
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = [await read_metrics(endpoint) for endpoint in endpoints]
            if all(condition(metrics) for metrics in seen):
                return seen
            await asyncio.sleep(0.1)


async def _get(endpoint: AgentEndpoint, path: str) -> str:
    key = os.environ.get(endpoint.api_key_env or "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
        session.get(endpoint.base_url + path) as reply,
    ):
        return await reply.text()
