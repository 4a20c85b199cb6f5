"""Whatever is sent, a simulated server answers as a server: never with a failure of its own program."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from aurora_pool.testing import AgentProfile, SimulatedFleet

if TYPE_CHECKING:
    from tests.testing.conftest import Client

pytestmark = pytest.mark.simulated_clock

ODD: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", [], [1], [None], ["a"], [[]], {"a": 1}]

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": ["hi", "ho"], "max_tokens": 2},
    "/v1/chat/completions": CHAT,
    "/v1/chat/completions/batch": {**CHAT, "messages": [CHAT["messages"]]},
    "/v1/embeddings": {"input": "hi"},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
}
FIELDS = """
    add_generation_prompt add_special_tokens chat_template continue_final_message dimensions echo encoding_format
    guided_choice guided_json ignore_eos include_stop_str_in_output input logprobs max_completion_tokens max_tokens
    messages min_tokens model n prompt prompt_logprobs request_id response_format return_prompt_text return_token_ids
    return_token_strs return_tokens_as_token_ids seed skip_special_tokens stop stop_token_ids stream stream_interval
    stream_options structured_outputs suffix temperature tokens tool_choice tools top_logprobs top_p
    truncate_prompt_tokens truncation_side use_beam_search
"""


@pytest.mark.parametrize(("path", "version"), [*((path, "0.32.0") for path in REQUESTS), ("/v1/completions", "0.10.0")])
async def test_odd_values_are_answered_or_refused(client: Client, path: str, version: str) -> None:
    asyncio.get_running_loop().set_debug(False)  # thousands of requests: debugging would take most of the time
    profile = AgentProfile(version=version, max_model_len=64)
    async with SimulatedFleet(profile=profile, record=False) as fleet:
        url = fleet.endpoints[0].base_url + path
        failed = []
        for field in FIELDS.split():
            for value in ODD:
                async with client.session.post(url, json={**REQUESTS[path], field: value}) as reply:
                    if reply.status not in (200, 400, 404):
                        failed.append((field, value, reply.status))
        assert failed == []


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'"x"', b"null", b"\xff", b'{"prompt": "\xed\xa0\x80"}'])
async def test_odd_bodies_are_refused(client: Client, path: str, body: bytes) -> None:
    async with SimulatedFleet() as fleet:
        url = fleet.endpoints[0].base_url + path
        async with client.session.post(url, data=body, headers={"Content-Type": "application/json"}) as reply:
            assert reply.status == 400


async def test_a_connection_that_is_cut_when_its_answer_begins_is_no_error_of_the_program(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async with SimulatedFleet() as fleet:
        (agent,) = fleet.agents
        agent.hang()
        asked = asyncio.create_task(client.complete(agent, stream=True))
        await asyncio.sleep(1)  # of a simulated clock: it has been received
        agent.revive()
        agent.die()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asked
    assert caplog.text == ""
