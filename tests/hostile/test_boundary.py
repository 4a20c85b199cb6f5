"""Whatever one agent's bytes are, they are that agent's bad reply: no call ends of them, and nothing leaks."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from aurora_pool import Timeouts
from aurora_pool.embeddings import EmbeddingPool
from tests.hostile.odd_server import Asked, OddServer, choice, good, http, pool_of, reply_of, stream, text_for

pytestmark = pytest.mark.simulated_clock

PROMPTS = [f"prompt {number}" for number in range(12)]
DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DEEPER = b"[" * 100_000


def with_usage(usage: dict[str, Any]) -> Any:
    def answer(asked: Asked) -> bytes:
        ends = [choice(i, text_for(p), "stop") | {"usage": usage} for i, p in enumerate(asked.prompts)]
        return stream(*ends, {"choices": [], "usage": usage})

    return answer


ODD = {
    "deep": lambda _: http(DEEP),
    "deeper": lambda _: http(DEEPER),
    "a deep event": lambda _: stream(DEEP),
    "a deep error": lambda _: http(DEEPER, 500),
    "a deep error within": lambda _: http(b'{"error":{"message":' + DEEP + b"}}", 500),
    "a deep rejection": lambda _: http(DEEP, 503),
    "no UTF-8": lambda _: http(b'{"choices":[{"index":0,"text":"\xff"}]}'),
    "NaN": lambda asked: http(good(asked).replace(b'"stop"', b"NaN")),
    "a number too large": lambda _: http(b'{"choices":[{"index":1e999,"text":"a"}]}'),
    "an index too large": lambda _: http(b'{"choices":[{"index":1%s,"text":"a"}]}' % (b"0" * 400)),
    "choices that are none": lambda _: http(b'{"choices":[null,7,"x",[]]}'),
    "an unknown encoding": lambda _: http(b"\x00\x01", headers={"Content-Encoding": "br"}),
    "no gzip": lambda _: http(b"{}", headers={"Content-Encoding": "gzip"}),
    "no HTTP": lambda _: b"what?\r\n\r\n",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_the_others_answer_what_one_answers_with_nonsense(odd: Any) -> None:
    async with pool_of(odd, good) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
        assert [(r.success, r.text, r.agent_index) for r in responses] == [(True, text_for(p), 1) for p in PROMPTS]
        assert all(not agent.in_flight for agent in pool.statistics().agents)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
async def test_nonsense_of_all_agents_is_a_failure_of_the_prompts(odd: Any) -> None:
    async with pool_of(odd, everything=True, timeouts=Timeouts(patience=3.0)) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
        assert all(not response.success and response.error for response in responses)
        assert all(not agent.in_flight for agent in pool.statistics().agents)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 3, "completion_tokens": 20_000_000},
        {"prompt_tokens": 3, "completion_tokens": -5000},
        {"prompt_tokens": 10**400, "completion_tokens": 3},
        {"prompt_tokens": 10**15, "completion_tokens": 3},
        {"prompt_tokens": 3.0, "completion_tokens": 4.0},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": "3", "completion_tokens": [3]},
    ],
    ids=str,
)
async def test_counts_that_cannot_be_are_not_believed(usage: dict[str, Any]) -> None:
    prompts = [f"a prompt of some length, number {number}, which is longer than 32 bytes" for number in range(100)]
    async with pool_of(with_usage(usage), max_tokens=None, model_max_context=4096) as (pool, servers):
        for _ in range(3):
            responses = await pool.send_all_batched(prompts)
            assert all(r.success and r.text == text_for(p) for p, r in zip(prompts, responses, strict=True))
        assert not [asked for asked in servers[0].asked if asked.path == "/tokenize"]
        assert pool.estimate_tokens(prompts[0]) <= len(prompts[0]) + 1
        statistics = pool.statistics()
        assert statistics.agents[0].in_flight == 0
        assert 0 <= statistics.tokens_done < 100_000


async def test_models_in_a_circle_have_no_length() -> None:
    def circle(asked: Asked) -> bytes:
        if asked.path == "/v1/models":
            return http(b'{"data":[{"id":"m","parent":"n"},{"id":"n","parent":"m"}]}')
        return good(asked)

    async with pool_of(circle, everything=True) as (pool, _):
        assert pool.max_context is None
        assert all(response.success for response in await pool.send_all_batched(PROMPTS))


@pytest.mark.parametrize("body", [DEEP, DEEPER, b'{"data":[{"id":"m","max_model_len":-1}]}', b'{"data":7}', b"\xff"])
async def test_nonsense_about_models_is_no_answer(body: bytes) -> None:
    def odd(asked: Asked) -> bytes:
        return http(body) if asked.path == "/v1/models" else good(asked)

    async with pool_of(odd, good, everything=True, model=None) as (pool, _):
        assert pool.model == "m"
        assert all(response.success for response in await pool.send_all_batched(PROMPTS))


async def test_a_probe_that_gets_nonsense_is_one_that_failed() -> None:
    behaviour: list[Any] = [lambda _: http(DEEPER, 500)]

    def now(asked: Asked) -> Any:
        return behaviour[0](asked)

    async with pool_of(now, good, everything=True) as (pool, _):
        assert all(response.success for response in await pool.send_all_batched(PROMPTS))
        for _ in range(6):
            await asyncio.sleep(5)  # it rests after each failure
            await pool.send_all_batched(PROMPTS)
        await asyncio.sleep(100)
        assert pool.statistics().agents[0].state == "out"
        behaviour[0] = good
        await asyncio.sleep(100)
        assert pool.statistics().agents[0].state == "in service"


METRICS = [b"NaN", b"abc", b"-1", b"Inf", b"1e400", b"7"]


@pytest.mark.parametrize("value", METRICS)
async def test_metrics_of_an_agent_that_hangs_do_not_keep_it_alive(value: bytes) -> None:
    async def hang(asked: Asked) -> None:
        await asyncio.sleep(10_000)

    def odd(asked: Asked) -> Any:
        if asked.path == "/metrics":
            return http(b"vllm:num_requests_running " + value + b"\n", content_type="text/plain")
        return good(asked) if asked.path == "/v1/models" else hang(asked)

    async with pool_of(odd, good, everything=True, balance="strict") as (pool, _):
        responses = await asyncio.wait_for(pool.send_all_batched(PROMPTS), 1000)
        assert all(response.success for response in responses)


EMBEDDINGS = {
    "no base64": b'{"index":0,"embedding":"0"}',
    "odd size": b'{"index":0,"embedding":"AAAA"}',
    "NaN": b'{"index":0,"embedding":"AADAfw=="}',
    "empty": b'{"index":0,"embedding":""}',
    "no numbers": b'{"index":0,"embedding":["a"]}',
}


@pytest.mark.parametrize("item", EMBEDDINGS.values(), ids=EMBEDDINGS)
async def test_what_is_no_vector_is_no_success(item: bytes) -> None:
    pytest.importorskip("numpy")

    async def all_responses(behaviour: Any) -> Any:
        server = OddServer(behaviour)
        await server.start()
        async with EmbeddingPool([server.endpoint], model="m", timeouts=Timeouts(patience=3.0)) as pool:
            responses = await pool.send_all_batched(["a text"])
        await server.close()
        return responses

    (response,) = await all_responses(lambda _: http(b'{"data":[' + item + b"]}"))
    assert not response.success
    assert response.error


async def test_vectors_of_different_sizes_are_a_bad_reply() -> None:
    def odd(asked: Asked) -> bytes:
        data = [{"index": i, "embedding": [1.0] * (i + 1)} for i, _ in enumerate(asked.prompts)]
        return http(msgspec.json.encode({"data": data}))

    pytest.importorskip("numpy")
    server = OddServer(odd)
    await server.start()
    async with EmbeddingPool([server.endpoint], model="m", timeouts=Timeouts(patience=3.0)) as pool:
        await pool.send_all_batched(["a", "b"])
        assert "dimensions" in pool.statistics().agents[0].last_error
    await server.close()


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls"])
async def test_some_ends_are_a_result_of_their_prompt_and_no_failure_of_an_agent(reason: str) -> None:
    def odd(asked: Asked) -> bytes:
        ends = [{"index": i, "text": "so far", "finish_reason": reason} for i, _ in enumerate(asked.prompts)]
        return reply_of(ends)

    async with pool_of(odd) as (pool, servers):
        responses = await pool.send_all_batched(PROMPTS)
        assert {(r.success, r.text, r.finish_reason, r.attempts) for r in responses} == {
            (reason == "tool_calls", "so far", reason, 1)
        }
        assert {r.error_kind for r in responses} == {None if reason == "tool_calls" else "rejected"}
        assert not pool.statistics().agents[0].failures
        assert sum(asked.path == "/v1/completions" for asked in servers[0].asked) == 1
