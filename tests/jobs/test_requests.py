"""What lines of input mean, and which are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aurora_pool.jobs.prompt_maker import PromptMaker
from aurora_pool.jobs.requests import Request, RequestError, RequestReader
from aurora_pool.messages import Prompt, Sampling


def read(fields: object, number: int = 1, **options: Any) -> Request:
    line = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return RequestReader(**options).read(line, number)


def batch(body: dict[str, Any], url: str | None = "/v1/completions", **changes: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body} | changes


def test_reads_the_batch_format() -> None:
    request = read(batch({"model": "m", "prompt": "Hi", "max_tokens": 3}))
    assert (request.id, request.url, request.model) == ("a", "/v1/completions", "m")
    assert PromptMaker().prompt(request) == Prompt("Hi", Sampling(), 3, "raw")


def test_reads_chats_in_the_batch_format() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    request = read(batch({"messages": messages, "max_completion_tokens": 9, "max_tokens": 5}, "/v1/chat/completions"))
    assert request.chat
    assert PromptMaker().prompt(request) == Prompt(messages, Sampling(), 9)


@pytest.mark.parametrize(("key", "value", "expected"), [("id", 7, "7"), ("id", "x", "x"), ("custom_id", "y", "y")])
def test_reads_short_lines(key: str, value: object, expected: str) -> None:
    request = read({"prompt": "Hi", key: value, "temperature": 0.5})
    assert request.id == expected
    assert PromptMaker().prompt(request) == Prompt("Hi", Sampling(temperature=0.5))


def test_lines_of_text_are_prompts() -> None:
    request = read('{"not": "json here"} déjà'.encode(), 12, text=True)
    assert (request.id, request.body) == ("line-12", {"prompt": '{"not": "json here"} déjà'})


def test_plain_prompts_go_as_chats_if_asked() -> None:
    chat: dict[str, Any] = {"prompt_format": "chat"}
    assert read({"prompt": "Hi"}, **chat).body == {"messages": [{"role": "user", "content": "Hi"}]}
    assert read(b"Hi", text=True, **chat).chat
    assert not read({"prompt": [1, 2]}, **chat).chat  # token ids have no roles
    assert not read(batch({"prompt": "Hi"}), **chat).chat  # a line that names its url means it


def test_only_short_text_is_put_into_the_chat_template() -> None:
    def format_of(fields: object, **options: Any) -> str | None:
        return PromptMaker().prompt(read(fields, **options)).format

    assert format_of({"prompt": "Hi"}) is format_of(b"Hi", text=True) is None  # as the pool does
    assert format_of({"prompt": "Hi"}, prompt_format="raw") == format_of(batch({"prompt": ["Hi"]})) == "raw"
    assert format_of({"messages": [{"role": "user", "content": "Hi"}]}, prompt_format="raw") is None


def test_a_system_prompt_goes_before_plain_prompts() -> None:
    options: dict[str, Any] = {"prompt_format": "chat", "system_prompt": "Be brief."}
    system = {"role": "system", "content": "Be brief."}
    assert read({"prompt": "Hi"}, **options).body["messages"] == [system, {"role": "user", "content": "Hi"}]
    messages = [{"role": "user", "content": "Hi"}]
    assert read({"messages": messages}, **options).body["messages"] == messages


def test_fields_become_sampling_and_the_rest_goes_along() -> None:
    body = {"prompt": [1, 2], "n": 2, "stop": ["a", "b"], "logprobs": 3, "seed": 1, "top_k": 4, "min_p": 0.1}
    prompt = PromptMaker().prompt(read(batch(body)))
    expected = Sampling(n=2, stop=("a", "b"), logprobs=3, seed=1, top_k=4, extra={"min_p": 0.1})
    assert prompt == Prompt([1, 2], expected, format="raw")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"logprobs": True, "top_logprobs": 2}, 2), ({"logprobs": True}, 0), ({"logprobs": False}, None), ({}, None)],
)
def test_chat_logprobs_are_two_fields(fields: dict[str, Any], expected: int | None) -> None:
    request = read({"messages": [{"role": "user", "content": "Hi"}], **fields})
    assert PromptMaker().prompt(request).sampling == Sampling(logprobs=expected)


def test_requests_that_are_sampled_alike_share_their_sampling() -> None:
    maker = PromptMaker()
    first = maker.prompt(read({"prompt": "a", "temperature": 0, "min_p": 0.1}))
    second = maker.prompt(read({"min_p": 0.1, "prompt": "b", "temperature": 0}))
    other = maker.prompt(read({"prompt": "c", "temperature": 1}))
    assert first.sampling is second.sampling
    assert other.sampling is not first.sampling


def test_defaults_fill_in_what_a_line_lacks() -> None:
    defaults = {"max_tokens": 5, "temperature": 0}
    assert read({"prompt": "a", "max_tokens": 9}, defaults=defaults).body == {
        "prompt": "a",
        "max_tokens": 9,
        "temperature": 0,
    }


def test_models_are_mapped() -> None:
    assert read({"prompt": "a", "model": "old"}, model_map={"old": "new"}).model == "new"
    assert read({"prompt": "a", "model": "other"}, model_map={"old": "new"}).model == "other"


def test_the_digest_is_of_the_meaning_not_of_the_spelling() -> None:
    same = [
        b'{"prompt": "caf\\u00e9", "max_tokens": 3}',
        '{"max_tokens":3,"prompt":"café","id":"b","model":"m"}'.encode(),
    ]
    first, second = (read(line) for line in same)
    assert first.digest == second.digest
    different = [{"prompt": "tea", "max_tokens": 3}, {"prompt": "café", "max_tokens": 4}, {"prompt": "café"}]
    assert len({first.digest, *(read(line).digest for line in different)}) == 4
    # What goes to another url is another request, whatever its body.
    ways: list[Any] = ["auto", "chat", "raw"]
    assert len({read({"prompt": "a"}, prompt_format=way).digest for way in ways}) == 3
    assert read({"prompt": "a"}, prompt_format="raw").digest == read(batch({"prompt": "a"})).digest


def test_the_digest_stays_the_same_from_version_to_version() -> None:
    # Otherwise an upgrade in the middle of a job would run everything again.
    assert f"{read({'prompt': 'Name a colour.', 'max_tokens': 16}).digest:016x}" == "db5e480ada434730"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "expected a JSON object"),
        (b"[1]", "expected a JSON object"),
        (b"\xff", "expected UTF-8 text"),
        ({}, "'prompt', 'messages' or 'body'"),
        ({"prompt": "a", "messages": []}, "expected 'prompt' or 'messages', got both"),
        ({"prompt": ["a", "b"]}, "one text or one list"),
        ({"prompt": []}, "one text or one list"),
        ({"prompt": [True]}, "one text or one list"),
        ({"prompt": None}, "one text or one list"),
        ({"messages": []}, "at least one message"),
        ({"messages": ["Hi"]}, "at least one message"),
        ({"prompt": "a", "id": True}, "the id"),
        ({"prompt": "a", "id": 1.5}, "the id"),
        ({"prompt": "a", "model": 3}, "expected 'model' to be a string"),
        ({"prompt": "a", "extra_body": 3}, "expected 'extra_body' to be an object"),
        ({"prompt": "a", "stream": True}, "'stream'"),
        ({"prompt": "a", "n": 0}, "'n'"),
        ({"prompt": "a", "max_tokens": 0}, "'max_tokens' to be a whole number of at least 1, got 0"),
        ({"prompt": "a", "max_tokens": "10"}, "'max_tokens'"),
        ({"prompt": "a", "max_tokens": True}, "'max_tokens'"),
        ({"messages": [{}], "max_completion_tokens": [1]}, "'max_completion_tokens'"),
        (b'{"prompt": "a", "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion|Stack overflow"),
        (batch({"prompt": "a"}, custom_id=3), "expected 'custom_id' to be a string"),
        (batch({"prompt": "a"}, method="GET"), "POST"),
        (batch({"prompt": "a"}, url="/v1/embeddings"), "'input' to be one text"),
        (batch({"input": "a", "n": 2}, url="/v1/embeddings"), "a body of 'input', 'model' and 'dimensions', got 'n'"),
        (batch({"input": "a"}, url="/v1/responses"), "write 'messages' instead of 'input'"),
        (batch({"prompt": "a"}, url="/v2/x"), "expected the url"),
        (batch({"x": "a"}, url=None), "expected a 'url', or a 'body' with"),
        (batch({"messages": [{}]}), "one text or one list"),
        (batch({"prompt": "a"}, temperature=1), "'temperature'"),
        ({"custom_id": "a", "url": "/v1/completions", "body": "x"}, "expected 'body' to be an object"),
    ],
)
def test_refuses_invalid_lines(line: object, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        read(line)


def test_refuses_text_that_is_not_utf8() -> None:
    with pytest.raises(RequestError, match="byte 3"):
        read(b"ab\xff", text=True)


@pytest.mark.parametrize("prompt", ["half \ud83d", "half \ud83d emoji", "\ude00", ["\ud83d"]])
def test_half_of_a_surrogate_pair_is_called_that(prompt: Any) -> None:
    fields = {"messages": [{"role": "user", "content": prompt}]} if isinstance(prompt, list) else {"prompt": prompt}
    for line in (fields, json.dumps(fields).encode(), json.dumps(batch(fields, None)).encode()):
        with pytest.raises(RequestError, match=r"^the text is no valid Unicode: a lone surrogate, '.u"):
            RequestReader().read(line, 1)
    assert read({"prompt": "\U0001f600"}).body == {"prompt": "\U0001f600"}


def test_a_row_with_what_can_not_be_sent_is_a_bad_line() -> None:
    with pytest.raises(RequestError, match=r"^the row can't be sent: .*object"):
        RequestReader().read({"prompt": "a", "min_p": object()}, 1)


def test_tools_go_to_the_server_as_they_stand() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    line = json.dumps({"messages": [{"role": "user", "content": "1 + 1"}], "tools": tools, "tool_choice": "auto"})
    prompt = PromptMaker().prompt(RequestReader().read(line.encode(), 1))
    assert prompt.sampling is not None
    assert prompt.sampling.extra == {"tools": tools, "tool_choice": "auto"}
