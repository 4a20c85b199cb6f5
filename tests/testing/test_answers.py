from __future__ import annotations

import asyncio
import json
import statistics
from typing import TYPE_CHECKING, Any

import pytest

from aurora_pool.testing import AgentProfile, SimulatedFleet
from aurora_pool.testing.answers import natural_length
from aurora_pool.testing.schema import example_of
from aurora_pool.testing.thinking import split_delta, split_thinking

if TYPE_CHECKING:
    from tests.testing.conftest import Client

pytestmark = pytest.mark.simulated_clock

PROMPTS = [f"What does gene {number} do?" for number in range(12)]


async def texts(client: Client, agent: Any, prompts: list[str], **fields: Any) -> list[str]:
    _, body = await client.complete(agent, prompts, max_tokens=60, **fields)
    return [choice["text"] for choice in body["choices"]]


async def test_a_text_depends_on_neither_agent_nor_list_nor_company(client: Client) -> None:
    async with SimulatedFleet(2, profile=[AgentProfile(), AgentProfile(speed=0.3, slots=2)]) as fleet:
        first, second = fleet.agents
        whole = await texts(client, first, PROMPTS)
        assert len(set(whole)) == len(PROMPTS)
        assert await texts(client, second, PROMPTS) == whole
        alone = await asyncio.gather(*(texts(client, second, [prompt]) for prompt in PROMPTS))
        assert [text for (text,) in alone] == whole
        events = await client.stream(first, PROMPTS[:1], max_tokens=60)
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == whole[0]


async def test_seeds_count_only_above_temperature_zero(client: Client) -> None:
    async with SimulatedFleet() as fleet:
        (agent,) = fleet.agents

        async def one(**fields: Any) -> list[str]:
            return await texts(client, agent, ["a"], **fields)

        assert await one(temperature=0, seed=1) == await one(temperature=0, seed=2)
        assert await one(temperature=1, seed=1) == await one(temperature=1, seed=1)
        assert await one(temperature=1, seed=1) != await one(temperature=1, seed=2)
        assert len(set(await texts(client, agent, ["a"], temperature=1, seed=1, n=4))) == 4


async def test_replies_of_the_users_own(client: Client) -> None:
    profile = AgentProfile(reply=lambda prompt: f"You said: {prompt}")
    async with SimulatedFleet(profile=profile) as fleet:
        (agent,) = fleet.agents
        assert await texts(client, agent, ["héllo", "b"]) == ["You said: héllo", "You said: b"]
        chat = {"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "Hi"}]}
        _, body = await client.post(agent, "/v1/chat/completions", chat)
        assert body["choices"][0]["message"]["content"] == "You said: Hi"
        assert body["choices"][0]["finish_reason"] == "stop"
        rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        assert await texts(client, agent, [rendered]) == ["You said: Hi"]
        events = await client.stream(agent, "€€€", stream_interval=1)
        assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "You said: €€€"


def test_lengths_are_lognormal_and_clipped() -> None:
    profile = AgentProfile()
    lengths = [natural_length(profile, number * 2**64 // 4000) for number in range(4000)]
    assert (min(lengths), max(lengths)) == (8, 2048)
    assert statistics.median(lengths) == pytest.approx(200, abs=1)
    assert statistics.mean(lengths) == pytest.approx(275, rel=0.02)


@pytest.mark.parametrize("number", range(20))
def test_examples_fit_their_schemas(number: int) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 7, "maxLength": 9},
            "age": {"type": "integer", "minimum": 18, "maximum": 21},
            "score": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            "kind": {"enum": ["a", "b"]},
            "fixed": {"const": 7},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 2},
            "maybe": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        },
        "$defs": {"tag": {"type": ["string", "null"]}},
    }
    value = example_of(schema, number)
    assert list(value) == list(schema["properties"])
    assert 7 <= len(value["name"]) <= 9
    assert value["age"] in (18, 19, 20, 21)
    assert 0 < value["score"] <= 1
    assert value["kind"] in ("a", "b")
    assert value["fixed"] == 7
    assert len(value["tags"]) >= 2
    assert all(isinstance(tag, str) for tag in value["tags"])
    assert value["maybe"] in (None, True, False)
    json.dumps(value)


async def test_a_reasoning_model_thinks_apart(client: Client) -> None:
    async with SimulatedFleet(profile=AgentProfile(reasoning=True)) as fleet:
        (agent,) = fleet.agents
        chat = {"messages": [{"role": "user", "content": "Why?"}]}
        _, body = await client.post(agent, "/v1/chat/completions", chat)
        message = body["choices"][0]["message"]
        assert message["reasoning"]
        assert message["content"]
        assert "think>" not in message["reasoning"] + message["content"]
        agent.restart(AgentProfile(reasoning=True, version="0.10.2"))
        await asyncio.sleep(0.01)
        _, old = await client.post(agent, "/v1/chat/completions", chat)
        assert old["choices"][0]["message"]["reasoning_content"] == message["reasoning"]
        assert "reasoning" not in old["choices"][0]["message"]


def test_deltas_of_a_thinking_text_add_up() -> None:
    text = "<think> hm, well</think> Yes."
    for step in (1, 2, 5, 100):
        parts = [split_delta(text, start, min(start + step, len(text))) for start in range(0, len(text), step)]
        assert ("".join(r for r, _ in parts), "".join(c for _, c in parts)) == split_thinking(text)
    assert split_delta("No tags.", 0, 8) == ("", "No tags.")
