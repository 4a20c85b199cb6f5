"""The pytest plugin: fixtures ``simulated_fleet`` and ``vllm_pool``.

::

    @pytest.mark.simulated_fleet(agents=4)
    async def test_every_prompt_is_answered(simulated_fleet, vllm_pool):
        simulated_fleet.agents[0].die()
        responses = await vllm_pool.send_all_batched(["Name a colour."] * 100)
        assert all(response.success for response in responses)

The fixtures are asynchronous and need pytest-asyncio, in either of its modes, and an async test: the servers answer
only while it awaits something. The arguments of the marks ``simulated_fleet`` and ``vllm_pool`` are those of
:class:`~aurora_pool.testing.fleet.SimulatedFleet` (2 agents by default) and of :class:`~aurora_pool.pool.VLLMPool`. For
tests in simulated time see :func:`aurora_pool.testing.clock.loop_factories`, whose mark ``simulated_clock`` is
registered here too.

pytest imports this module in every run, so it imports nothing else until a fixture is used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aurora_pool.pool import VLLMPool
    from aurora_pool.testing.fleet import SimulatedFleet

try:
    from pytest_asyncio import fixture
except ImportError:  # the fixtures can't work then; pytest says so for a test that asks for one
    fixture = pytest.fixture  # type: ignore[assignment]

_MARKS = (
    "simulated_fleet(agents=2, **options): what SimulatedFleet is made of for the fixture of that name",
    "vllm_pool(**options): what VLLMPool is made of for the fixture of that name",
    "simulated_clock: run in simulated time, where conftest.py uses aurora_pool.testing.clock.loop_factories",
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks."""
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)


@fixture
async def simulated_fleet(request: pytest.FixtureRequest) -> AsyncIterator[SimulatedFleet]:
    """Serve a simulated fleet for the length of one test."""
    from aurora_pool.testing.fleet import SimulatedFleet  # noqa: PLC0415 - see above

    arguments, options = _mark(request, "simulated_fleet")
    if not arguments:
        options.setdefault("agents", 2)
    async with SimulatedFleet(*arguments, **options) as fleet:
        yield fleet


@fixture
async def vllm_pool(request: pytest.FixtureRequest, simulated_fleet: SimulatedFleet) -> AsyncIterator[VLLMPool]:
    """Make a pool over the test's simulated fleet."""
    from aurora_pool.pool import VLLMPool  # noqa: PLC0415 - see above

    _, options = _mark(request, "vllm_pool")
    async with VLLMPool(simulated_fleet.endpoints, **options) as pool:
        yield pool


def _mark(request: pytest.FixtureRequest, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read the arguments of the nearest mark of a name."""
    mark = request.node.get_closest_marker(name)
    return ((), {}) if mark is None else (mark.args, dict(mark.kwargs))
