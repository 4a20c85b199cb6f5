from __future__ import annotations

import pytest

from aurora_pool import VLLMPool
from aurora_pool.testing import SimulatedFleet
from tests.bare_pytest import BARE

pytest_plugins = ["pytester"]

STRICT = """
import pytest

pytestmark = pytest.mark.asyncio

@pytest.mark.simulated_fleet(3)
@pytest.mark.vllm_pool(concurrency=5)
async def test_marks(simulated_fleet, vllm_pool):
    assert len(simulated_fleet.agents) == vllm_pool.size == 3

async def test_defaults(simulated_fleet):
    assert len(simulated_fleet.agents) == 2
"""


@pytest.mark.simulated_clock
@pytest.mark.simulated_fleet(agents=3)
@pytest.mark.vllm_pool(max_tokens=5)
async def test_the_fixtures_give_a_pool_over_a_fleet(simulated_fleet: SimulatedFleet, vllm_pool: VLLMPool) -> None:
    assert vllm_pool.size == 3
    assert list(vllm_pool.endpoints) == simulated_fleet.endpoints
    responses = await vllm_pool.send_all_batched(["a", "b"])
    assert all(response.success for response in responses)
    assert simulated_fleet.prompts_answered == 3 + 2, "each agent is asked once as the pool starts"


def test_the_fixtures_work_in_the_strict_mode_of_pytest_asyncio(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(STRICT)
    result = pytester.runpytest_subprocess(
        "--asyncio-mode=strict",
        "-W",
        "error",
        "--strict-markers",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        *BARE,
    )
    result.assert_outcomes(passed=2)
