"""Servers of other engines: what they lack degrades, whether it is known before or learnt from what they refuse."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from aurora_pool import AgentEndpoint, Prompt, PromptOptions, Sampling, Timeouts, VLLMPool
from aurora_pool.testing import SimulatedFleet
from tests.pool.gateway import gateway, not_found
from tests.pool.running import CHAT, COMPLETIONS, INSTANT, chats_at, lists_at

pytestmark = pytest.mark.simulated_clock

KNOWN = {"model", "prompt", "messages", "max_tokens", "temperature", "stream", "stream_options", "seed"}
RAW = PromptOptions(prompt_format="raw")


def as_transformers(path: str, body: Any) -> web.Response | None:
    """Refuse what transformers 5.24 refuses, in its words."""
    if path not in (COMPLETIONS, CHAT):
        return not_found()
    if unexpected := body.keys() - KNOWN:
        return web.json_response({"detail": f"Unexpected fields in the request: {unexpected}"}, status=422)
    if "prompt" in body and not isinstance(body["prompt"], str):
        return web.json_response({"detail": "prompt must be a string."}, status=400)
    if body["model"] != "simulated-model":
        return web.json_response({"detail": f"Server is pinned to 'x'; requested {body['model']!r}."}, status=400)
    return None


@asynccontextmanager
async def transformers(fleet: SimulatedFleet, number: int, **tags: str) -> AsyncGenerator[AgentEndpoint]:
    async with gateway(fleet.endpoints[number], {}, as_transformers) as endpoint:
        yield AgentEndpoint(endpoint.host, endpoint.port, tags)


@pytest.mark.parametrize("tags", [{}, {"engine": "transformers"}], ids=["learnt", "told"])
@pytest.mark.parametrize("stream", [True, False])
async def test_without_lists_prompts_go_one_by_one(tags: dict[str, str], stream: bool) -> None:
    prompting = PromptOptions(prompt_format="raw", stream=stream)
    async with (
        SimulatedFleet(1, profile=INSTANT) as fleet,
        transformers(fleet, 0, **tags) as endpoint,
        VLLMPool([endpoint], max_tokens=8, prompting=prompting) as pool,
    ):
        responses = await pool.send_all_batched([f"prompt {n}" for n in range(50)])
        assert [response.success for response in responses] == [True] * 50
        assert [response.attempts for response in responses] == [1 if tags else 2] * 50
        agent = fleet.agents[0]
        assert sorted(request.body["prompt"] for request in lists_at(agent)) == sorted(f"prompt {n}" for n in range(50))
        assert not any("stream_interval" in request.body for request in agent.requests if request.body)
        statistics = pool.statistics()
        assert (statistics.moved, statistics.agents[0].failures) == (0, {})


async def test_a_mixed_fleet_gives_each_agent_what_it_takes() -> None:
    async with (
        SimulatedFleet(2, profile=INSTANT) as fleet,
        transformers(fleet, 0, engine="transformers") as other,
        VLLMPool([other, fleet.endpoints[1]], max_tokens=8, system_prompt="Be brief.") as pool,
    ):
        responses = await pool.send_all_batched([f"prompt {n}" for n in range(64)])
        assert {response.agent_index for response in responses if response.success} == {0, 1}
        # Text in the model's template, to an engine that can't be told that the special tokens are there already.
        chats = chats_at(fleet.agents[0])
        assert len(chats) == 32
        assert not lists_at(fleet.agents[0])
        assert chats[0].body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert [request.prompts for request in lists_at(fleet.agents[1])] == [32]


async def test_chats_need_none_of_it() -> None:
    async with (
        SimulatedFleet(1, profile=INSTANT) as fleet,
        transformers(fleet, 0) as endpoint,
        VLLMPool([endpoint], max_tokens=2000) as pool,
    ):
        responses = await pool.send_all_batched(["one", "two"], sampling=Sampling(seed=1))
        assert [response.success for response in responses] == [True, True]


async def test_a_field_that_only_the_caller_has_given_is_the_callers_error() -> None:
    async with (
        SimulatedFleet(1, profile=INSTANT) as fleet,
        transformers(fleet, 0) as endpoint,
        VLLMPool([endpoint], max_tokens=8, prompting=RAW) as pool,
    ):
        prompts = [Prompt("odd", sampling=Sampling(extra={"min_tokens": 2})), Prompt("plain")]
        odd, plain = await pool.send_all_batched(prompts)
        assert (odd.error_kind, plain.success) == ("rejected", True)
        assert "min_tokens" in str(odd.error)


async def test_a_server_that_is_pinned_to_another_model_is_no_use() -> None:
    async with (
        SimulatedFleet(2, profile=INSTANT) as fleet,
        transformers(fleet, 0, engine="transformers") as endpoint,
        VLLMPool([endpoint, fleet.endpoints[1]], model="simulated-model", max_tokens=8, prompting=RAW) as pool,
    ):
        fleet.agents[0].fail(400, message="Server is pinned to 'x'; requested 'simulated-model'.")
        responses = await pool.send_all_batched([f"prompt {n}" for n in range(10)])
        assert {response.agent_index for response in responses if response.success} == {1}
        assert pool.statistics().agents[0].state == "out"


def llama_models() -> web.Response:
    model = {"id": "simulated-model", "owned_by": "llamacpp", "meta": {"n_ctx": 64}}
    return web.json_response({"object": "list", "data": [model]})


def as_llama(path: str, body: Any) -> web.Response | None:
    """Answer ``/tokenize`` as llama.cpp does: nothing, where the text has another name."""
    if path == "/tokenize":
        return web.json_response({"tokens": list(range(len(body["content"].split()))) if "content" in body else []})
    if path == "/detokenize":
        return web.json_response({"content": "text"})
    return not_found() if path == "/v1/chat/completions/batch" else None


async def test_llama_tells_its_context_and_its_tokens_in_other_places() -> None:
    async with (
        SimulatedFleet(1, profile=INSTANT) as fleet,
        gateway(fleet.endpoints[0], {"/v1/models": llama_models}, as_llama) as endpoint,
        VLLMPool([endpoint], prompting=RAW, buffer=0) as pool,
    ):
        short, long = await pool.send_all_batched(["one two three", "word " * 100])
        assert short.success
        assert fleet.agents[0].requests[-1].body["max_tokens"] <= 61
        assert (long.error_kind, long.error) == (
            "rejected",
            "the prompt has 100 tokens, and the model's maximum context length is 64 tokens",
        )


async def test_conversations_go_to_the_chat_endpoint_where_the_template_can_not_be_asked() -> None:
    async with (
        SimulatedFleet(1, profile=INSTANT) as fleet,
        gateway(fleet.endpoints[0], {"/v1/models": llama_models}, as_llama) as endpoint,
        VLLMPool([endpoint], max_tokens=8, timeouts=Timeouts(patience=5.0)) as pool,
    ):
        assert all(response.success for response in await pool.send_all_batched(["one", "two"]))
        asked = [request.body["messages"][0]["content"] for request in chats_at(fleet.agents[0])]
        assert sorted(asked) == ["Hi", "one", "two"]  # the first is how the pool finds out
