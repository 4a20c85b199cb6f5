from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import Server, user

HELLO = user("Say hello.")


async def test_a_chat_has_these_fields(server: Server) -> None:
    body = (await server.chat(HELLO)).json
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert set(choice) == {
        "index",
        "message",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "token_ids",
        "routed_experts",
    }
    assert {"role", "content", "refusal", "reasoning"} <= set(choice["message"])
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["role"] == "assistant"
    assert {"prompt_logprobs", "prompt_token_ids", "prompt_text"} <= set(body)


async def test_a_streamed_chat_begins_with_the_role(server: Server) -> None:
    fields: dict[str, Any] = {"stream": True, "stream_interval": 10**6, "min_tokens": 4}
    first, second, last = await server.events(3, lambda: server.chat(HELLO, **fields))
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert set(second["choices"][0]["delta"]) == {"content"}
    assert last["choices"][0]["finish_reason"] == "length"
    whole = (await server.chat(HELLO, min_tokens=4)).json["choices"][0]["message"]["content"]
    assert second["choices"][0]["delta"]["content"] + last["choices"][0]["delta"]["content"] == whole


async def test_usage_of_a_streamed_chat(server: Server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    fields: dict[str, Any] = {"stream": True, "min_tokens": 4, "stream_options": options}

    def told(events: list[Any]) -> list[int]:
        *others, total = events
        assert total["choices"] == []
        assert total["usage"]["completion_tokens"] == 4
        return [event["usage"]["completion_tokens"] for event in others]

    await server.steps([0, 1, 2, 3, 4], told, lambda: server.chat(HELLO, **fields))


async def test_a_rendered_chat_is_a_prompt(server: Server) -> None:
    body = (await server.chat(HELLO, return_prompt_text=True, return_token_ids=True)).json
    assert "Say hello." in body["prompt_text"]
    same = {"messages": [HELLO], "add_generation_prompt": True}
    assert (await server.post("/tokenize", same)).json["tokens"] == body["prompt_token_ids"]
    answer = (await server.complete(body["prompt_token_ids"], return_token_ids=True)).json["choices"][0]
    assert answer["prompt_token_ids"] == body["prompt_token_ids"]
    text = {"prompt": body["prompt_text"], "add_special_tokens": False}
    assert (await server.post("/tokenize", text)).json["tokens"] == body["prompt_token_ids"]


@pytest.mark.parametrize("message", [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "user"}])
async def test_content_may_be_parts_or_missing(server: Server, message: dict[str, Any]) -> None:
    assert (await server.chat(message)).status == 200


async def test_an_empty_conversation(server: Server) -> None:
    error = (await server.chat()).error
    assert error["code"] == 400
    assert error["message"].startswith("Cannot apply chat template to an empty conversation.")


async def test_a_message_may_be_continued(server: Server) -> None:
    begun = {"role": "assistant", "content": "Sure, the answer"}
    fields: dict[str, Any] = {
        "continue_final_message": True,
        "add_generation_prompt": False,
        "return_prompt_text": True,
    }
    body = (await server.chat(HELLO, begun, **fields)).json
    assert body["prompt_text"].endswith("Sure, the answer")
    echoed = (await server.chat(HELLO, begun, echo=True, **fields)).json
    assert echoed["choices"][0]["message"]["content"].startswith("Sure, the answer")
    for wrong in (None, True):
        fields["add_generation_prompt"] = wrong
        if wrong is None:
            del fields["add_generation_prompt"]
        assert (await server.chat(HELLO, begun, **fields)).error["code"] == 400


async def test_max_completion_tokens_wins(server: Server) -> None:
    body = (await server.chat(HELLO, max_tokens=9, max_completion_tokens=2, min_tokens=2)).json
    assert body["usage"]["completion_tokens"] == 2


async def test_logprobs_of_a_chat(server: Server) -> None:
    (choice,) = (await server.chat(HELLO, logprobs=True, top_logprobs=2, min_tokens=4)).json["choices"]
    entries = choice["logprobs"]["content"]
    assert len(entries) == 4
    assert all(set(entry) == {"token", "logprob", "bytes", "top_logprobs"} for entry in entries)
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)


async def test_tools_need_a_server_that_knows_them(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    error = (await server.chat(HELLO, tools=[tool])).error
    assert error["message"].startswith('"auto" tool choice requires --enable-auto-tool-choice')
    assert (await server.chat(HELLO, tools=[tool], tool_choice="none")).status == 200


async def test_a_batch_of_conversations(server: Server) -> None:
    conversations = [[HELLO], [user("And goodbye.")], [HELLO]]
    reply = await server.post(
        "/v1/chat/completions/batch",
        {"messages": conversations, "max_tokens": 4, "min_tokens": 4, "temperature": 0, "return_token_ids": True},
    )
    body = reply.json
    assert body["object"] == "chat.completion"
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [len(choice["token_ids"]) for choice in body["choices"]] == [4, 4, 4]
    assert body["usage"]["completion_tokens"] == 12


async def test_the_trap_of_a_streamed_batch(server: Server) -> None:
    body = {"messages": [[HELLO], [HELLO]], "max_tokens": 4, "min_tokens": 4, "temperature": 0}
    whole = (await server.post("/v1/chat/completions/batch", body)).json
    streamed = await server.ask_until(
        lambda reply: bool(reply.json["usage"]["completion_tokens"] == 2),
        lambda: server.post("/v1/chat/completions/batch", {**body, "stream": True}),
    )
    assert streamed.status == 200
    assert streamed.headers["content-type"] == "application/json"
    for full, last in zip(whole["choices"], streamed.json["choices"], strict=True):
        assert full["message"]["content"] != last["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "mentions"),
    [
        ({"n": 2}, "n"),
        ({"use_beam_search": True}, "beam"),
        ({"messages": []}, "messages"),
        ({"messages": [[HELLO], []]}, "messages.1"),
        ({"tool_choice": "auto"}, "tool_choice"),
    ],
)
async def test_what_a_batch_refuses(server: Server, fields: dict[str, Any], mentions: str) -> None:
    body = {"messages": [[HELLO]], "max_tokens": 2, **fields}
    error = (await server.post("/v1/chat/completions/batch", body)).error
    assert error["code"] == 400
    assert mentions in error["message"]


async def test_one_conversation_that_is_too_long_fails_the_batch_unnamed(server: Server) -> None:
    long = user(" a" * (server.max_model_len + 50))
    error = (await server.post("/v1/chat/completions/batch", {"messages": [[HELLO], [long]], "max_tokens": 2})).error
    assert (error["code"], error["param"]) == (400, "input_tokens")
    assert "messages" not in error["message"]
