"""Servers up to 0.31 refuse what does not fit, where 0.32 generates what does."""

from typing import Any

import pytest

from aurora_pool import PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet

pytestmark = pytest.mark.simulated_clock


async def test_a_prompt_denser_than_estimated_is_answered_with_the_room_it_has() -> None:
    dense = "1 " * 1200  # far more tokens for its bytes than text
    async with SimulatedFleet(1, profile=AgentProfile(model="m", version="0.28.0", max_model_len=2048)) as fleet:
        options: dict[str, Any] = {
            "model_max_context": 2048,
            "prompting": PromptOptions(prompt_format="raw"),
            "timeouts": Timeouts(patience=5.0),
        }
        async with VLLMPool(fleet.endpoints, max_tokens=1000, **options) as pool:
            (response,) = await pool.send_all_batched([dense])
        length = response.prompt_tokens
        assert response.success, response.error
        assert length is not None
        bodies = [request.body for request in fleet.agents[0].requests if request.path == "/v1/completions"]
        assert bodies[-1]["max_tokens"] == min(1000, 2048 - length)
