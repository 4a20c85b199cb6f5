"""Fixtures over a fleet of real vLLM servers: the local one of ``local_fleet.py``, or any that a hostfile names."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aurora_pool import AgentEndpoint, Sampling, VLLMPool, parse_hostfile
from tests.integration.local_fleet import LocalFleet
from tests.integration.servers import Model, served_model
from tests.integration.sessions import Session
from tests.integration.vllm_environment import vllm_environment

TIMEOUT = 1200  # seconds; a server may have to be started again first, and a busy CPU answers slowly
GREEDY = Sampling(temperature=0.0)

_NO_FLEET = "no fleet to test with: use `make integration`, or name one by --hostfile FILE or AURORA_POOL_HOSTFILE"
_OUTSIDE = "the fleet was not started by local_fleet.py: no test may kill its servers"


@dataclass(frozen=True)
class Victim:
    """One server of the local fleet, for a test to kill or pause; the next test finds it whole again."""

    index: int
    session: Session

    def signal(self, signum: signal.Signals) -> None:
        """Do to it what an administrator or the kernel would do: SIGTERM goes to the API server, others to all."""
        if signum == signal.SIGTERM:
            os.kill(self.session.pid, signum)
        else:
            self.session.signal(signum)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostfile", type=Path, help="the fleet for tests/integration (default: AURORA_POOL_HOSTFILE)")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "destructive: kills or pauses servers; runs last, and on the local fleet only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT))
    destructive = [item for item in items if item.get_closest_marker("destructive")]
    others = [item for item in items if item not in destructive]
    hostfile = _hostfile(config)
    if hostfile is not None and not LocalFleet(hostfile).servers:
        config.hook.pytest_deselected(items=destructive)
        destructive = []
    items[:] = others + destructive


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    hostfile = _hostfile(config)
    if hostfile is None:
        return "fleet: none"
    return f"fleet: {hostfile}" + ("" if LocalFleet(hostfile).servers else f"; tests deselected: {_OUTSIDE}")


def _hostfile(config: pytest.Config) -> Path | None:
    given = config.getoption("hostfile", default=None) or os.environ.get("AURORA_POOL_HOSTFILE")
    return Path(given) if given else None


@pytest.fixture(scope="session")
def hostfile(request: pytest.FixtureRequest) -> Path:
    found = _hostfile(request.config)
    if found is None:
        pytest.fail(_NO_FLEET, pytrace=False)
    return found


@pytest.fixture
def endpoints(hostfile: Path) -> list[AgentEndpoint]:
    """The agents of the fleet, each of them up: what an earlier test killed is started again here."""
    found = parse_hostfile(hostfile)  # first: a stopped fleet has no hostfile
    fleet = LocalFleet(hostfile)
    for index, server in enumerate(fleet.servers):
        if not server.healthy():
            fleet.restart(index, vllm_environment())
    return found


@pytest.fixture
async def model(endpoints: list[AgentEndpoint]) -> Model:
    return await served_model(endpoints[0])


@pytest.fixture
async def pool(endpoints: list[AgentEndpoint]) -> AsyncIterator[VLLMPool]:
    async with VLLMPool(endpoints, sampling=GREEDY) as opened:
        yield opened


@pytest.fixture
def victim(hostfile: Path, endpoints: list[AgentEndpoint]) -> Iterator[Victim]:
    """The fleet's second server, to be killed or paused."""
    session = LocalFleet(hostfile).servers[1].session
    yield Victim(1, session)
    session.signal(signal.SIGCONT)
