from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest
{mark}

@pytest.mark.simulated_fleet(3)
@pytest.mark.vllm_pool(concurrency=5)
async def test_marks(simulated_fleet, vllm_pool):
    assert len(simulated_fleet.agents) == vllm_pool.size == 3
    responses = await vllm_pool.send_all_batched(["a", "b"], 3)
    assert all(response.success for response in responses)
    assert simulated_fleet.prompts_answered >= 2

async def test_defaults(simulated_fleet):
    assert len(simulated_fleet.agents) == 2
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixtures_work_in_both_modes_of_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    mark = "pytestmark = pytest.mark.asyncio" if mode == "strict" else ""
    pytester.makepyfile(TESTS.format(mark=mark))
    result = pytester.runpytest_subprocess(
        f"--asyncio-mode={mode}", "-W", "error", "--strict-markers", "-o", "asyncio_default_fixture_loop_scope=function"
    )
    result.assert_outcomes(passed=2)
