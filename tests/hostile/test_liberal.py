"""What can be read without doubt is read, however it is written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aurora_pool import Sampling, Timeouts
from tests.hostile.odd_server import Asked, as_chats, choice, http, pool_of, reply_of, sse, text_for

pytestmark = pytest.mark.simulated_clock

EVENTS = "text/event-stream"
USAGES: list[Any] = [None, {"completion_tokens": None}, {"prompt_tokens": 3.0, "completion_tokens": 4.0}, {}]
TEXT = text_for("a")
HALVES = (choice(0, TEXT[:5]), choice(0, TEXT[5:], "stop"))
DONE = b"[DONE]"


def body(*choices: Any, **more: Any) -> bytes:
    return msgspec.json.encode({"choices": choices, **more})


WRITTEN = {
    "a usage that is null": http(body({"index": 0, "text": TEXT, "finish_reason": "stop"}, usage=None)),
    "no index": http(body({"text": TEXT, "finish_reason": "stop"})),
    "an index that is null": http(body({"index": None, "text": TEXT, "finish_reason": "stop"})),
    "eos": http(body({"index": 0, "text": TEXT, "finish_reason": "eos"})),
    "eos_token": http(sse(HALVES[0], choice(0, TEXT[5:], "eos_token"), DONE), content_type=EVENTS),
    "no reason": http(body({"index": 0, "text": TEXT})),
    "no reason in a stream": http(sse(HALVES[0], choice(0, TEXT[5:]), DONE), content_type=EVENTS),
    "an empty reason on the way": http(sse(choice(0, TEXT[:5], ""), HALVES[1], DONE), content_type=EVENTS),
    "no index in a stream": http(
        sse(choice(None, TEXT[:5]), choice(None, TEXT[5:], "stop"), DONE), content_type=EVENTS
    ),
    "text that is null": http(
        sse(choice(0, None), choice(0, TEXT), choice(0, None, "stop"), DONE), content_type=EVENTS
    ),
    "no text at the end": http(
        sse(choice(0, TEXT), {"choices": [{"index": 0, "finish_reason": "stop"}]}, DONE), content_type=EVENTS
    ),
    "choices that are null": http(sse(*HALVES, {"choices": None, "usage": None}, DONE), content_type=EVENTS),
    "text in parts": http(body({"index": 0, "text": [{"type": "text", "text": TEXT}], "finish_reason": "stop"})),
    "JSON called events": http(body({"index": 0, "text": TEXT, "finish_reason": "stop"}), content_type=EVENTS),
    "events called JSON": http(sse(*HALVES, DONE)),
    "events called Events": http(sse(*HALVES, DONE), content_type="Text/Event-Stream; Charset=UTF-8"),
    "events of no type": http(b": hello\n\n" + sse(*HALVES, DONE), content_type=""),
    "returns": http(sse(*HALVES, DONE).replace(b"\n", b"\r"), content_type=EVENTS),
    "returns and newlines": http(sse(*HALVES, DONE).replace(b"\n", b"\r\n"), content_type=EVENTS),
    "a mark": http(b"\xef\xbb\xbf" + sse(*HALVES, DONE), content_type=EVENTS),
    "single newlines": http(sse(*HALVES, DONE).replace(b"\n\n", b"\n"), content_type=EVENTS),
    "empty data": http(b"data:\n\n" + sse(*HALVES, b"", b"null", DONE), content_type=EVENTS),
    "no last empty line": http(sse(*HALVES).removesuffix(b"\n\n"), content_type=EVENTS),
    "no DONE": http(sse(*HALVES), content_type=EVENTS),
    "no space": http(sse(*HALVES, DONE).replace(b"data: ", b"data:"), content_type=EVENTS),
}


@pytest.mark.parametrize("reply", WRITTEN.values(), ids=WRITTEN)
async def test_an_answer_is_read_however_it_is_written(reply: bytes) -> None:
    async with pool_of(lambda _: reply) as (pool, servers):
        (response,) = await pool.send_all_batched(["a"])
        assert (response.success, response.text, response.attempts) == (True, TEXT, 1)
        assert sum(asked.path == "/v1/completions" for asked in servers[0].asked) == 1


CHATS = {
    "parts": {"content": [{"type": "text", "text": TEXT[:5]}, {"type": "text", "text": TEXT[5:]}]},
    "thoughts": {"content": TEXT, "reasoning_content": "Hm."},
    "more than is known": {"content": TEXT, "annotations": [], "audio": None, "x": {"y": 1}},
}


@pytest.mark.parametrize("message", CHATS.values(), ids=CHATS)
async def test_a_chat_is_read_however_it_is_written(message: dict[str, Any]) -> None:
    reply = reply_of([{"index": 0, "message": message, "finish_reason": "stop"}])
    async with pool_of(lambda _: reply) as (pool, _):
        (response,) = await pool.send_all(as_chats(["a"]))
        assert (response.success, response.text) == (True, TEXT)


@pytest.mark.parametrize("usage", USAGES, ids=str)
async def test_counts_that_are_missing_are_unknown(usage: Any) -> None:
    reply = http(body({"index": 0, "text": TEXT, "finish_reason": "stop"}, usage=usage))
    async with pool_of(lambda _: reply) as (pool, _):
        (response,) = await pool.send_all_batched(["a"])
        known = bool(usage) and usage["completion_tokens"] is not None
        assert (response.success, response.completion_tokens) == (True, 4 if known else response.completion_tokens)
        assert known or not response.completion_tokens


LOGPROBS = {
    "the chat's form": {
        "content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "a", "logprob": -1.0}]}]
    },
    "their own form": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]},
    "null among the alternatives": {
        "tokens": ["a"],
        "token_logprobs": [-1.0],
        "top_logprobs": [{"a": -1.0, "b": None}],
    },
}


@pytest.mark.parametrize("written", LOGPROBS.values(), ids=LOGPROBS)
async def test_logprobs_are_read_in_either_form(written: Any) -> None:
    reply = http(body({"index": 0, "text": "a", "finish_reason": "stop", "logprobs": written}))
    async with pool_of(lambda _: reply) as (pool, _):
        (response,) = await pool.send_all_batched(["a"], sampling=Sampling(logprobs=1))
        assert response.logprobs is not None
        assert response.logprobs.tokens == ["a"]
        assert response.logprobs.token_logprobs == [-1.0]
        assert response.logprobs.top == [{"a": -1.0}]


UNCLEAR = {
    "no text": http(body({"index": 0, "finish_reason": "stop"})),
    "text that is a number": http(body({"index": 0, "text": 7, "finish_reason": "stop"})),
    "a chat's message": http(body({"index": 0, "message": {"content": "x"}, "finish_reason": "stop"})),
    "a stream cut off": http(sse(choice(0, "x"))),
    "an end whose text has another name": http(
        sse(choice(0, "x"), {"choices": [{"index": 0, "tfxt": "y", "finish_reason": "stop"}]}, DONE),
        content_type=EVENTS,
    ),
    "half an event": http(sse(choice(0, "x", "stop"))[:-9], content_type=EVENTS),
    "nothing": http(b""),
    "nothing but done": http(sse(DONE), content_type=EVENTS),
}


@pytest.mark.parametrize("reply", UNCLEAR.values(), ids=UNCLEAR)
async def test_what_is_unknown_about_the_text_is_an_error(reply: bytes) -> None:
    async with pool_of(lambda _: reply, timeouts=Timeouts(patience=3.0)) as (pool, _):
        (response,) = await pool.send_all_batched(["a"])
        assert (response.success, response.error_kind) == (False, "exhausted")


@pytest.mark.parametrize(
    ("end", "success"),
    [
        ({}, True),
        ({"delta": None, "stop_reason": "</s>", "logprobs": None}, True),
        ({"dtlta": {"content": "y"}}, False),
        ({"message": {"role": "assistant"}}, False),
        ({"content": "y"}, False),
    ],
)
async def test_a_chat_may_end_without_a_delta_but_not_with_one_of_another_name(
    end: dict[str, Any], success: bool
) -> None:
    begun = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    ended = {"choices": [{"index": 0, **end, "finish_reason": "stop"}]}
    reply = http(sse(begun, ended, DONE), content_type=EVENTS)
    async with pool_of(lambda _: reply, max_tokens=4000, timeouts=Timeouts(patience=3.0)) as (pool, _):
        (response,) = await pool.send_all(as_chats(["a"]))
        assert (response.success, response.text) == (success, "x" if success else "")


async def test_a_long_chat_is_streamed_and_its_tool_calls_are_put_together() -> None:
    pieces = [
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
    ]

    def odd(asked: Asked) -> bytes:
        assert asked.body["stream"]
        events = [{"choices": [{"index": 0, "delta": piece, "finish_reason": None}]} for piece in pieces]
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
        return http(sse(*events, end, usage, DONE), content_type=EVENTS)

    async with pool_of(odd, max_tokens=4000) as (pool, _):
        (response,) = await pool.send_all(as_chats(["a"]))
        assert (response.success, response.finish_reason) == (True, "tool_calls")
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
        assert response.tool_calls == [call]
