"""No text that is not its prompt's is ever a success."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from aurora_pool import Response
from tests.hostile.odd_server import Asked, choice, good, http, pool_of, sse, stream, text_for

pytestmark = pytest.mark.simulated_clock

PROMPTS = [f"prompt {number}" for number in range(8)]


def all_right(prompts: Sequence[Any], responses: Sequence[Response]) -> bool:
    """Whether each success has its prompt's own text; and there must be one response for each."""
    assert len(responses) == len(prompts)
    return all(not r.success or r.text == text_for(p) for p, r in zip(prompts, responses, strict=True))


def all_zero(asked: Asked) -> bytes:
    """Every choice has the index 0, and they come interleaved."""
    texts = [text_for(prompt) for prompt in asked.prompts]
    return stream(*(choice(0, text[:4]) for text in texts), *(choice(0, text[4:], "stop") for text in texts))


def all_zero_at_once(asked: Asked) -> bytes:
    return stream(*(choice(0, text_for(prompt), "stop") for prompt in reversed(asked.prompts)))


def by_sample(asked: Asked) -> bytes:
    """The index is that of the sample alone."""
    n = asked.body.get("n", 1)
    texts = [text_for(prompt) for prompt in asked.prompts for _ in range(n)]
    return stream(*(choice(i % n, t, "stop") for i, t in enumerate(texts)))


def end_twice(asked: Asked) -> bytes:
    whole = [choice(index, text_for(prompt), "stop") for index, prompt in enumerate(asked.prompts)]
    return stream(*whole, *whole)


def text_after_the_end(asked: Asked) -> bytes:
    whole = [choice(index, text_for(prompt), "stop") for index, prompt in enumerate(asked.prompts)]
    return stream(whole[0], choice(0, " and more"), *whole[1:])


def out_of_range(asked: Asked) -> bytes:
    return stream(*(choice(index + 1, text_for(p), "stop") for index, p in enumerate(asked.prompts)))


def negative(asked: Asked) -> bytes:
    return stream(*(choice(index - 1, text_for(p), "stop") for index, p in enumerate(asked.prompts)))


def whole_with_one_index(asked: Asked) -> bytes:
    choices = [{"index": 0, "text": text_for(p), "finish_reason": "stop"} for p in asked.prompts]
    return http(msgspec.json.encode({"choices": choices}))


def chat_reply(asked: Asked) -> bytes:
    choices = [{"index": i, "message": {"content": "x"}, "finish_reason": "stop"} for i, _ in enumerate(asked.prompts)]
    return http(msgspec.json.encode({"choices": choices}))


def no_text(asked: Asked) -> bytes:
    return http(
        msgspec.json.encode({"choices": [{"index": i, "finish_reason": "stop"} for i, _ in enumerate(asked.prompts)]})
    )


def another_model(asked: Asked) -> bytes:
    return good(asked, "n")


@pytest.mark.parametrize(
    "odd",
    [
        all_zero,
        all_zero_at_once,
        by_sample,
        end_twice,
        text_after_the_end,
        out_of_range,
        negative,
        whole_with_one_index,
        chat_reply,
        no_text,
        another_model,
    ],
)
async def test_the_other_agent_answers_what_one_gets_wrong(odd: Any) -> None:
    async with pool_of(odd, good) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
        assert all_right(PROMPTS, responses)
        assert all(response.success for response in responses)
        assert pool.statistics().agents[0].failures


async def test_indices_of_samples_alone_mix_no_prompts() -> None:
    from aurora_pool import Sampling

    async with pool_of(by_sample) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS[:3], sampling=Sampling(n=2, temperature=1.0))
        assert all(not r.success or set(r.texts) == {text_for(p)} for p, r in zip(PROMPTS, responses, strict=False))


async def test_a_second_reply_on_a_kept_connection_answers_nobody() -> None:
    async def twice(asked: Asked) -> None:
        asked.writer.write(good(asked))
        await asked.writer.drain()
        await asyncio.sleep(0.02)
        asked.writer.write(http(msgspec.json.encode(choice(0, "the last one again", "stop"))))

    async with pool_of(twice, stream=False) as (pool, _):
        for number in range(10):
            (response,) = await pool.send_all_batched([f"prompt {number}"])
            await asyncio.sleep(0.05)
            assert (response.success, response.text) == (True, text_for(f"prompt {number}"))


async def test_a_byte_order_mark_costs_no_text() -> None:
    def marked(asked: Asked) -> bytes:
        body = b"\xef\xbb\xbf" + sse(
            choice(0, text_for(asked.prompts[0])[:5]), choice(0, text_for(asked.prompts[0])[5:], "stop"), b"[DONE]"
        )
        return http(body, content_type="text/event-stream")

    async with pool_of(marked) as (pool, _):
        (response,) = await pool.send_all_batched(["a"])
        assert response.text == text_for("a")


async def test_an_agent_that_lists_another_model_gets_no_prompts() -> None:
    def other(asked: Asked) -> bytes:
        if asked.path == "/v1/models":
            return http(msgspec.json.encode({"data": [{"id": "n"}]}))
        return good(asked, "")

    async with pool_of(other, good, everything=True) as (pool, servers):
        responses = await pool.send_all_batched(PROMPTS)
        assert all(response.success and response.agent_index == 1 for response in responses)
        assert not [asked for asked in servers[0].asked if asked.path == "/v1/completions"]


async def test_aliases_and_the_root_of_a_model_are_its_names() -> None:
    def alias(asked: Asked) -> bytes:
        if asked.path == "/v1/models":
            listed = [{"id": "first", "root": "org/model"}, {"id": "m", "root": "org/model"}]
            return http(msgspec.json.encode({"data": listed}))
        return good(asked, "first")

    async with pool_of(alias, everything=True) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
        assert all(response.success for response in responses)


async def test_an_agent_restarted_under_another_model_is_found_out_and_taken_back_when_it_is_right_again() -> None:
    names = ["m"]

    def restarted(asked: Asked) -> bytes:
        return good(asked, names[0])

    async with pool_of(restarted, good, everything=True) as (pool, _):
        assert {r.agent_index for r in await pool.send_all_batched(PROMPTS)} == {0, 1}
        names[0] = "n"
        responses = await pool.send_all_batched(PROMPTS)
        assert all(r.success and r.agent_index == 1 for r in responses)
        assert "answers as 'n'" in pool.statistics().agents[0].last_error
        await asyncio.sleep(200)
        assert pool.statistics().agents[0].state != "in service"
        names[0] = "m"
        await asyncio.sleep(200)
        assert pool.statistics().agents[0].state == "in service"
