from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import accumulate
from typing import Any

import pytest

from tests.conformance.client import Server


def by_choice(events: list[Any]) -> dict[int, list[Any]]:
    """Sort events by their choice; each event has exactly one."""
    choices: dict[int, list[Any]] = defaultdict(list)
    for event in events:
        (choice,) = event["choices"]
        choices[choice["index"]].append(event)
    return dict(choices)


def tokens_so_far(events: list[Any]) -> list[int]:
    """Tell after each event how many tokens there are."""
    return list(accumulate(len(event["choices"][0]["token_ids"]) for event in events))


async def test_two_events_for_each_choice(server: Server) -> None:
    prompts = [f"Number {n}:" for n in range(12)]
    events = await server.events(24, lambda: server.stream(prompts, max_tokens=10, ignore_eos=True))
    choices = by_choice(events)
    assert sorted(choices) == list(range(12))
    for first, last in choices.values():
        assert first["choices"][0]["finish_reason"] is None
        assert last["choices"][0]["finish_reason"] == "length"
        assert "system_fingerprint" not in first
        assert last["system_fingerprint"].startswith("vllm-")


async def test_an_event_has_these_fields(server: Server) -> None:
    first, last = await server.events(2, lambda: server.stream("Hello", max_tokens=5, ignore_eos=True))
    assert set(first) == {"id", "object", "created", "model", "choices"}
    assert first["object"] == "text_completion"
    assert first["id"] == last["id"]
    assert set(first["choices"][0]) == {
        "index",
        "text",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "prompt_token_ids",
        "token_ids",
    }


async def test_a_single_token_is_one_event(server: Server) -> None:
    (event,) = (await server.stream("Hello", max_tokens=1)).events
    assert event["choices"][0]["finish_reason"] == "length"


async def test_an_interval_counts_from_the_first_token(server: Server) -> None:
    fields: dict[str, Any] = {"max_tokens": 9, "ignore_eos": True, "stream_interval": 3, "return_token_ids": True}
    await server.steps([1, 4, 7, 9], tokens_so_far, lambda: server.stream("Hello", **fields))


async def test_without_an_interval_there_is_an_event_for_each_token(server: Server) -> None:
    fields: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "return_token_ids": True}
    await server.steps([1, 2, 3, 4, 5, 6], tokens_so_far, lambda: server.complete("Hello", stream=True, **fields))


async def test_deltas_add_up(server: Server) -> None:
    fields: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True, "return_token_ids": True}
    whole = (await server.complete("The quick brown fox", **fields)).json["choices"][0]
    for interval in (1, 5, 1000):
        events = (await server.stream("The quick brown fox", stream_interval=interval, **fields)).events
        assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]
        assert [token for event in events for token in event["choices"][0]["token_ids"]] == whole["token_ids"]
        assert events[0]["choices"][0]["prompt_token_ids"] == whole["prompt_token_ids"]
        assert all(event["choices"][0]["prompt_token_ids"] is None for event in events[1:])


async def test_usage_in_every_event_is_of_its_choice_and_the_last_is_of_all(server: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    prompts = ["Short", "A good deal longer than that"]
    fields: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "stream_options": options}
    *events, total = await server.events(5, lambda: server.stream(prompts, **fields))
    counts = [len((await server.post("/tokenize", {"prompt": text})).json["tokens"]) for text in prompts]
    for index, (first, last) in by_choice(events).items():
        assert first["usage"]["prompt_tokens"] == last["usage"]["prompt_tokens"] == counts[index]
        assert first["usage"]["completion_tokens"] == 1
        assert last["usage"]["completion_tokens"] == 6
        assert "system_fingerprint" not in last
    assert total["choices"] == []
    assert total["usage"] == {"prompt_tokens": sum(counts), "total_tokens": sum(counts) + 12, "completion_tokens": 12}
    assert total["system_fingerprint"].startswith("vllm-")


async def test_logprobs_of_a_stream(server: Server) -> None:
    events = (await server.stream("Once upon", logprobs=1, max_tokens=5, ignore_eos=True)).events
    tokens = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
    offsets = [offset for event in events for offset in event["choices"][0]["logprobs"]["text_offset"]]
    assert len(tokens) == 5
    assert offsets == [sum(map(len, tokens[:number])) for number in range(5)]


async def test_a_held_back_stop_string_never_shows(server: Server) -> None:
    whole = (await server.complete("Tell me", max_tokens=16, ignore_eos=True)).json["choices"][0]["text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    events = (await server.complete("Tell me", max_tokens=16, ignore_eos=True, stream=True, stop=[stop])).events
    assert "".join(event["choices"][0]["text"] for event in events) == whole[: whole.index(stop)]
    assert events[-1]["choices"][0]["stop_reason"] == stop


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (["fine", ""], {}),
        ([[99_999_999]], {}),
        ("fine", {"logprobs": 21}),
    ],
)
async def test_what_the_engine_refuses_is_an_event_under_200(
    server: Server, prompt: Any, fields: dict[str, Any]
) -> None:
    (event,) = (await server.stream(prompt, **fields)).events
    assert set(event) == {"error"}
    assert event["error"]["code"] == 400
    assert set(event["error"]) == {"message", "type", "param", "code"}


async def test_what_is_refused_before_is_an_http_error(server: Server) -> None:
    too_long = await server.tokens(server.max_model_len + 1)
    refused: list[dict[str, Any]] = [{"prompt": [[1], too_long]}, {"prompt": "a", "max_tokens": 0}, {"prompt": []}]
    for fields in refused:
        reply = await server.stream(**fields)
        assert reply.status == 400
        assert reply.error["code"] == 400
    assert (await server.stream("a", model="nope")).status == 404


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_frees_the_engine(server: Server, stream: bool) -> None:
    longest = 1500
    body = {"prompt": ["Forever"] * 3, "max_tokens": longest, "ignore_eos": True, "stream": stream}
    url = server.endpoint.base_url + "/v1/completions"

    async def ask() -> None:
        async with server.session.post(url, json=body) as reply:
            await reply.read()

    before = await server.metric("vllm:generation_tokens_total")
    task = asyncio.create_task(ask())
    await server.reaches(3, server.running)
    task.cancel()
    await asyncio.wait([task])
    await server.reaches(0, server.running)
    assert await server.metric("vllm:generation_tokens_total") - before < longest, "they went on"
