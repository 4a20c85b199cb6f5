"""What a pool relies on, of any engine: what its dialect says that it lacks, it has to refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aurora_pool.policy.outcome import Outcome, classify
from aurora_pool.wire.dialect import DIALECTS, VLLM, dialect_of, learnt
from aurora_pool.wire.errors import parse_error
from aurora_pool.wire.model_list import parse_models
from tests.conformance.client import Reply, Server, user

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
SHORT: dict[str, Any] = {"max_tokens": 4, "temperature": 0}


def refusal(reply: Reply) -> Any:
    assert reply.status != 200, reply.text
    return parse_error(reply.status, reply.text.encode())


def events(reply: Reply) -> list[Any]:
    """The events of a stream, in which ``[DONE]`` need not be, and ``null`` may (llama.cpp's first)."""
    assert reply.status == 200, reply.text
    lines = [line.removeprefix("data:").strip() for line in reply.text.splitlines() if line.startswith("data:")]
    return [msgspec.json.decode(line) for line in lines if line not in ("[DONE]", "null")]


async def test_it_answers_health_and_lists_models(server: Server) -> None:
    assert (await server.get("/health")).status == 200
    listed = await server.get("/v1/models")
    if server.dialect is DIALECTS["transformers"] and listed.status == 500:
        return  # it has no cache of Hugging Face to list
    assert parse_models(listed.text.encode())


async def test_its_dialect_is_found_out(server: Server) -> None:
    dialect = dialect_of(server.card.get("owned_by", ""))
    body = {**SHORT, "prompt": ["One", "Two"], "stream": True, "stream_interval": 1000, "add_special_tokens": True}
    for _ in range(3):
        asked = body if dialect.lists else {**body, "prompt": ["One"]}
        reply = await server.ask(COMPLETIONS, asked, dialect)
        if reply.status == 200:
            break
        found = learnt(dialect, refusal(reply))
        assert found is not None, reply.text
        dialect = found
    assert (dialect.lists, dialect.further_fields) == (server.dialect.lists, server.dialect.further_fields)


async def test_a_list_has_a_choice_for_each_prompt(server: Server) -> None:
    body = {**SHORT, "prompt": [f"Item {number} is" for number in range(6)]}
    if server.dialect.lists:
        choices = (await server.ask(COMPLETIONS, body)).json["choices"]
        assert sorted(choice["index"] for choice in choices) == list(range(6))
    else:
        assert learnt(VLLM, refusal(await server.ask(COMPLETIONS, body))) is not None


async def test_a_streamed_list_has_an_end_for_each_prompt(server: Server) -> None:
    prompts = [f"Item {number} is" for number in range(6 if server.dialect.lists else 1)]
    body = {**SHORT, "prompt": prompts, "stream": True, "stream_interval": 1000}
    ends: dict[int, str] = {}
    for event in events(await server.ask(COMPLETIONS, body)):
        for choice in event["choices"]:
            assert choice["index"] not in ends
            if choice.get("finish_reason"):
                ends[choice["index"]] = choice["finish_reason"]
    assert sorted(ends) == list(range(len(prompts)))
    assert set(ends.values()) <= {"length", "stop"}


async def test_fields_that_the_api_does_not_have(server: Server) -> None:
    body = {**SHORT, "prompt": "One", "model": server.model, "stream_interval": 1000, "add_special_tokens": True}
    reply = await server.post(COMPLETIONS, body)
    if server.dialect.further_fields:
        assert reply.status == 200, reply.text
    else:
        assert learnt(VLLM, refusal(reply)) is not None


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_are_counted_and_limited(server: Server, stream: bool) -> None:
    body: dict[str, Any] = {**SHORT, "prompt": "Once upon a time", "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    reply = await server.ask(COMPLETIONS, body)
    (usage,) = (
        [event["usage"] for event in events(reply) if event.get("usage")][-1:] if stream else [reply.json["usage"]]
    )
    assert usage["prompt_tokens"] > 0
    assert 1 <= usage["completion_tokens"] <= 4


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_is_answered(server: Server, stream: bool) -> None:
    reply = await server.ask(CHAT, {**SHORT, "messages": [user("Say hello.")], "stream": stream})
    if stream:
        choices = [choice for event in events(reply) for choice in event["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    else:
        (choice,) = reply.json["choices"]
        text, reasons = choice["message"]["content"], [choice["finish_reason"]]
    assert text
    assert len(reasons) == 1
    assert reasons[0] in ("length", "stop")


async def test_without_temperature_the_answer_is_the_same_again(server: Server) -> None:
    body = {**SHORT, "prompt": "The capital of France is"}
    texts = [(await server.ask(COMPLETIONS, body)).json["choices"][0]["text"] for _ in range(2)]
    assert texts[0] == texts[1]


async def test_texts_are_tokenized_where_they_are(server: Server) -> None:
    reply = await server.ask("/tokenize", {"prompt": "Hello there", "add_special_tokens": False})
    if server.dialect is DIALECTS["transformers"]:
        assert reply.status in (404, 405)
    else:
        assert len(reply.json["tokens"]) >= 2


async def test_what_is_wrong_with_a_prompt_is_told_in_words(server: Server) -> None:
    error = refusal(await server.ask(COMPLETIONS, {**SHORT, "prompt": {"a": 1}}))
    assert error.message
    assert classify(error, 1) is Outcome.PROMPT_REJECTED


async def test_another_model_is_not_there_or_the_name_means_nothing(server: Server) -> None:
    reply = await server.ask(COMPLETIONS, {**SHORT, "prompt": "One", "model": "nope"})
    if server.dialect is DIALECTS["llamacpp"]:
        assert reply.status == 200
    else:
        assert classify(refusal(reply), 1) is Outcome.WRONG_MODEL
