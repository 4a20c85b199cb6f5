"""One suite for two kinds of server: the simulated one, in simulated time, and a real vLLM.

``AURORA_POOL_HOSTFILE`` (or ``--hostfile``, where tests/integration is part of the run) names a fleet of real servers;
the first that is up is asked. Nothing here depends on what a model says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
import pytest

from aurora_pool import AgentEndpoint, parse_hostfile
from aurora_pool.testing import AgentProfile, SimulatedClockEventLoop, SimulatedFleet
from tests.conformance.client import Server

PROFILE = AgentProfile(max_model_len=2048, slots=64)


def _hostfile(config: pytest.Config) -> str | None:
    given = config.getoption("hostfile", default=None) or os.environ.get("AURORA_POOL_HOSTFILE")
    return str(given) if given else None


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if _hostfile(config):
        return {"real": asyncio.new_event_loop}
    return {"simulated": SimulatedClockEventLoop}


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        hostfile = _hostfile(request.config)
        if hostfile:
            endpoint = await _first_up(session, parse_hostfile(hostfile))
            yield await Server.find(session, endpoint)
            return
        async with SimulatedFleet(profile=PROFILE) as fleet:
            yield await Server.find(session, fleet.endpoints[0])


async def _first_up(session: aiohttp.ClientSession, endpoints: list[AgentEndpoint]) -> AgentEndpoint:
    for endpoint in endpoints:
        try:
            async with session.get(endpoint.base_url + "/health") as reply:
                if reply.status == 200:
                    return endpoint
        except aiohttp.ClientError:
            continue
    pytest.fail("no server of the fleet is up", pytrace=False)
