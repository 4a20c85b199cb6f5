"""What each kind of reply, and each way of not replying, becomes in a Response."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses

from aurora_pool import AgentEndpoint, ConfigError, Prompt, PromptOptions, Response, Timeouts, VLLMPool
from tests.wire.bodies import chat, chat_choice, chat_message, choice, completion, error, usage

pytestmark = pytest.mark.simulated_clock

BASE = "http://gpu01:8000"
COMPLETIONS = f"{BASE}/v1/completions"
CHAT = f"{BASE}/v1/chat/completions"
KEY = "sk-never-to-be-seen"


@pytest.fixture
def http() -> Iterator[aioresponses]:
    with aioresponses() as mocked:
        mocked.get(f"{BASE}/v1/models", payload={"data": [{"id": "m", "max_model_len": 2048}]}, repeat=True)
        mocked.get(f"{BASE}/metrics", status=404, repeat=True)
        yield mocked


@pytest.fixture
async def pool(http: aioresponses, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VLLMPool]:
    monkeypatch.setenv("GPU01_KEY", KEY)
    endpoint = AgentEndpoint("gpu01", 8000, {"api_key_env": "GPU01_KEY"})
    async with VLLMPool(
        [endpoint], prompting=PromptOptions(prompt_format="raw"), timeouts=Timeouts(patience=20.0), rng=random.Random(1)
    ) as pool:
        yield pool


async def one(pool: VLLMPool) -> Response:
    (response,) = await pool.send_all_batched(["Hello"], max_tokens=8)
    return response


async def test_an_answer(http: aioresponses, pool: VLLMPool) -> None:
    http.post(COMPLETIONS, body=completion(choice(0, " world", "stop"), usage=usage(2, 3)))
    response = await one(pool)
    assert response == Response(
        True,
        " world",
        agent_index=0,
        finish_reason="stop",
        prompt_tokens=2,
        completion_tokens=3,
        attempts=1,
        latency=response.latency,
    )


@pytest.mark.parametrize("reason", ["stop", "length", "repetition", "tool_calls"])
async def test_these_finish_reasons_are_success(http: aioresponses, pool: VLLMPool, reason: str) -> None:
    http.post(COMPLETIONS, body=completion(choice(0, "x", reason)))
    response = await one(pool)
    assert (response.success, response.finish_reason) == (True, reason)


@pytest.mark.parametrize("reason", ["abort", "error", "no reason that is known"])
async def test_no_other_finish_reason_is(http: aioresponses, pool: VLLMPool, reason: str) -> None:
    http.post(COMPLETIONS, body=completion(choice(0, "part", reason)), repeat=True)
    response = await one(pool)
    assert not response.success
    assert response.error_kind in {"exhausted", "no_agents"}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, error("max_tokens must be at least 1, got 0.", 400), "max_tokens must be at least 1"),
        (400, b'{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}', "too long"),
        (413, b"<html>Request Entity Too Large</html>", "Too Large"),
        (422, b'{"detail":[{"msg":"field required"}]}', "field required"),
    ],
)
async def test_the_prompts_own_fault_is_told_at_once(
    http: aioresponses, pool: VLLMPool, status: int, body: bytes, words: str
) -> None:
    http.post(COMPLETIONS, status=status, body=body)
    response = await one(pool)
    assert (response.success, response.error_kind, response.attempts, response.agent_index) == (False, "rejected", 1, 0)
    assert words in (response.error or "")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            404,
            error("The model `m` does not exist. Valid aliases: x.", 404, "NotFoundError", "model"),
            "does not exist",
        ),
        (401, b'{"error":"Unauthorized"}', "Unauthorized"),
        (403, error("no", 403), "403"),
    ],
)
async def test_a_fleet_in_the_wrong_place_is_one_clear_error(
    http: aioresponses, pool: VLLMPool, status: int, body: bytes, words: str
) -> None:
    http.post(COMPLETIONS, status=status, body=body, repeat=True)
    response = await one(pool)
    assert (response.success, response.error_kind) == (False, "no_agents")
    assert words in (response.error or "")
    assert "gpu01:8000" in (response.error or "")


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 500, "body": error("cannot schedule new futures after shutdown", 500)},
        {"status": 500, "body": error("EngineCore encountered an issue.", 500)},
        {"status": 500, "body": b""},
        {"status": 502, "body": b"<html>Bad Gateway</html>"},
        {"status": 503, "body": error("The engine is currently busy", 503)},
        {"status": 429, "body": b""},
        {"status": 200, "body": b"<html>It works!</html>", "content_type": "text/html"},
        {"status": 200, "body": completion(choice(0, "partial", "abort"))},
        {"status": 200, "body": completion()},
        {"exception": aiohttp.ServerDisconnectedError()},
        {"exception": aiohttp.ClientOSError(104, "Connection reset by peer")},
        {"exception": aiohttp.ConnectionTimeoutError("connect")},
        {"exception": ConnectionResetError(104, "Connection reset by peer")},
    ],
    ids=lambda failure: str(failure.get("exception") or f"{failure['status']} {failure['body'][:24]!r}"),
)
async def test_what_is_not_the_prompts_fault_is_tried_again(
    http: aioresponses, pool: VLLMPool, failure: dict[str, Any]
) -> None:
    http.post(COMPLETIONS, **failure)
    http.post(COMPLETIONS, body=completion(choice(0, "back", "stop")), repeat=True)
    response = await one(pool)
    assert (response.success, response.text) == (True, "back")
    if "exception" not in failure:  # the double raises before anything is sent, and the clock runs from sending
        assert response.latency > 0


async def test_a_server_that_always_fails_ends_in_an_error_with_its_words(http: aioresponses, pool: VLLMPool) -> None:
    http.post(COMPLETIONS, status=500, body=error("the disk is full", 500), repeat=True)
    response = await one(pool)
    assert not response.success
    assert "the disk is full" in (response.error or "")


async def test_chat(http: aioresponses, pool: VLLMPool) -> None:
    http.post(CHAT, body=chat(chat_choice(0, chat_message("42", reasoning="Hm.")), usage=usage(12, 4)))
    response = await pool.post(0, Prompt("What is the answer?", format="chat"))
    assert (response.success, response.text, response.reasoning) == (True, "42", "Hm.")
    assert (response.prompt_tokens, response.completion_tokens) == (12, 4)


async def test_a_chat_stream_without_an_answer_is_tried_again(http: aioresponses, pool: VLLMPool) -> None:
    http.post(CHAT, body=b'data: {"choices":[]}\n\ndata: [DONE]\n\n', content_type="text/event-stream")
    http.post(CHAT, body=chat(chat_choice(0, chat_message("42"))))
    (response,) = await pool.send_all([Prompt("What is the answer?", format="chat")])
    assert (response.success, response.text, response.attempts) == (True, "42", 2)
    assert "before every prompt" in (pool.statistics().agents[0].last_error or "")


async def test_the_key_is_sent_and_never_shown(
    http: aioresponses, pool: VLLMPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    http.post(COMPLETIONS, exception=aiohttp.ServerDisconnectedError())
    http.post(COMPLETIONS, status=401, body=b'{"error":"Unauthorized"}', repeat=True)
    response = await one(pool)
    sent = [call.kwargs["headers"] for calls in (http.requests or {}).values() for call in calls]
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in sent)
    shown = [repr(pool), repr(pool.endpoints), repr(pool.statistics()), repr(response), str(response), caplog.text]
    assert not any(KEY in text for text in shown)


def test_a_key_whose_variable_is_not_set_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPU01_KEY", raising=False)
    with pytest.raises(ConfigError, match="gpu01:8000: the environment variable GPU01_KEY"):
        VLLMPool([AgentEndpoint("gpu01", 8000, {"api_key_env": "GPU01_KEY"})])
