"""One suite for all servers: the simulated one, in simulated time, a real vLLM, and those of other engines.

``AURORA_POOL_HOSTFILE`` (or ``--hostfile``, where tests/integration is part of the run) names a fleet of real servers;
the first that is up is asked. ``test_any_engine.py`` is what a pool relies on, and ``--engine NAME`` runs it against
a server of another engine, which is started; the other files are vLLM's exact words. Nothing depends on what a model
says.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import aiohttp
import pytest

from aurora_pool import AgentEndpoint, parse_hostfile
from aurora_pool.engine_names import ENGINE_TAG
from aurora_pool.testing import AgentProfile, SimulatedClockEventLoop, SimulatedFleet
from tests.conformance.client import Server
from tests.other_engines.servers import ENGINES, OLD_VLLM, Engine, running

PROFILE = AgentProfile(max_model_len=2048, slots=64)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=(*ENGINES, OLD_VLLM), help="the engine to run test_any_engine.py against")


def _engine(config: pytest.Config) -> str | None:
    name: str | None = config.getoption("engine", default=None)
    return name


def _hostfile(config: pytest.Config) -> str | None:
    given = config.getoption("hostfile", default=None) or os.environ.get("AURORA_POOL_HOSTFILE")
    return str(given) if given else None


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if _hostfile(config) or _engine(config):
        return {"real": asyncio.new_event_loop}
    return {"simulated": SimulatedClockEventLoop}


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine | None]:
    """The server that ``--engine`` asks for."""
    name = _engine(request.config)
    if name is None:
        yield None
        return
    with running(name, tmp_path_factory.mktemp("engine") / "log") as found:
        yield found


@pytest.fixture
async def server(request: pytest.FixtureRequest, engine: Engine | None) -> AsyncIterator[Server]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        if engine is not None:
            host, _, port = engine.address.partition(":")
            endpoint = AgentEndpoint(host, int(port), {ENGINE_TAG: engine.name})
            if engine.name == "transformers":  # it lists what lies in the cache of Hugging Face, served or not
                yield Server(session, endpoint, {"id": engine.model})
            else:
                yield await Server.find(session, endpoint)
            return
        hostfile = _hostfile(request.config)
        if hostfile:
            endpoint = await _first_up(session, parse_hostfile(hostfile))
            yield await Server.find(session, endpoint)
            return
        async with SimulatedFleet(profile=PROFILE) as fleet:
            yield await Server.find(session, fleet.endpoints[0], simulated=True)


async def _first_up(session: aiohttp.ClientSession, endpoints: list[AgentEndpoint]) -> AgentEndpoint:
    for endpoint in endpoints:
        try:
            async with session.get(endpoint.base_url + "/health") as reply:
                if reply.status == 200:
                    return endpoint
        except aiohttp.ClientError:
            continue
    pytest.fail("no server of the fleet is up", pytrace=False)
