"""What fails is blamed on whom it belongs to: a prompt, an agent, a proxy, or nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from aurora_pool import AgentEndpoint, PromptOptions, Response, Timeouts, VLLMPool
from tests.hostile.odd_server import (
    Asked,
    OddServer,
    as_chats,
    begin,
    choice,
    chunk,
    good,
    http,
    pool_of,
    sse,
    text_for,
)

pytestmark = pytest.mark.simulated_clock

RAW = PromptOptions(prompt_format="raw")
PROMPTS = [f"prompt {number}" for number in range(40)]


def fails_for(word: str, reply: Any) -> Any:
    """A good server but for lists with a prompt that has this word in it."""

    def answer(asked: Asked) -> bytes:
        return reply(asked) if any(word in str(prompt) for prompt in asked.prompts) else good(asked)

    return answer


FAILURES = {
    "500": lambda _: http(b'{"error":{"message":"out of range float"}}', 500),
    "an error event": lambda _: http(
        sse({"error": {"message": "no", "code": 500}}, b"[DONE]"), content_type="text/event-stream"
    ),
    "NaN": lambda _: http(b'{"choices":[{"index":0,"text":"a","logprobs":NaN}]}'),
    "409": lambda _: http(b"", 409),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize(("prompts", "bad"), [(40, 1), (400, 4)])
async def test_a_prompt_that_breaks_its_list_costs_nobody_else_an_answer(failure: Any, prompts: int, bad: int) -> None:
    texts = [f"prompt {i}{' BAD' if i % (prompts // bad) == 7 else ''}" for i in range(prompts)]
    server = fails_for("BAD", failure)
    async with pool_of(server, server) as (pool, _):
        responses = await pool.send_all_batched(texts)
        assert [r.success for r in responses] == ["BAD" not in text for text in texts]
        assert {r.error_kind for r in responses if not r.success} == {"exhausted"}
        assert {agent.state for agent in pool.statistics().agents} == {"in service"}


async def test_one_bad_prompt_in_a_hundred_leaves_the_others_answered() -> None:
    texts = [f"prompt {i}{' BAD' if i % 100 == 50 else ''}" for i in range(2000)]
    server = fails_for("BAD", FAILURES["500"])
    async with pool_of(server, server) as (pool, servers):
        responses = await pool.send_all_batched(texts)
        assert [r.success for r in responses] == ["BAD" not in text for text in texts]
        assert sum(len(server.asked) for server in servers) < 20 * 40


def at_pace(seconds: float, failure: Any = None) -> Any:
    """A server that streams one answer after the other, ``seconds`` apart, and fails lists with a BAD prompt."""

    async def answer(asked: Asked) -> None:
        if failure is not None and any("BAD" in prompt for prompt in asked.prompts):
            asked.writer.write(failure(asked))
            return
        texts = [text_for(prompt) for prompt in asked.prompts]
        asked.writer.write(begin() + chunk(sse(*(choice(index, text[:3]) for index, text in enumerate(texts)))))
        for index, text in enumerate(texts):
            await asyncio.sleep(seconds)
            asked.writer.write(chunk(sse(choice(index, text[3:], "stop"))))
        asked.writer.write(chunk(sse(b"[DONE]")) + chunk(b""))

    return answer


@pytest.mark.parametrize("failure", [FAILURES["500"], lambda _: http(b"", 503)], ids=["500", "503"])
@pytest.mark.parametrize("slow_fails_too", [False, True])
async def test_what_the_fast_agent_fails_at_the_end_is_taken_by_a_slow_one(failure: Any, slow_fails_too: bool) -> None:
    fast, slow = at_pace(0.01, failure), at_pace(0.1, FAILURES["500"] if slow_fails_too else None)
    async with pool_of(fast, slow) as (pool, _):
        await pool.send_all_batched([f"first {number}" for number in range(100)])
        responses = await asyncio.wait_for(pool.send_all_batched(["BAD", *PROMPTS]), 100)
        assert all(response.success for response in responses[1:])
        assert responses[0].error_kind == ("exhausted" if slow_fails_too else None)


@pytest.mark.parametrize("status", [204, 301, 302, 307, 308, 402, 407, 410, 421, 426, 451, 418, 599])
async def test_a_status_that_says_nothing_of_prompts_is_the_agents(status: int) -> None:
    async with pool_of(lambda _: http(b"", status, headers={"Location": "/"}), good) as (pool, _):
        for _ in range(4):
            responses = await pool.send_all_batched(PROMPTS)
            assert all(response.success and response.agent_index == 1 for response in responses)
            await asyncio.sleep(1)


async def test_a_server_that_wants_tls_is_no_fault_of_prompts() -> None:
    page = b"<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>"
    async with pool_of(lambda _: http(page, 400, "text/html"), good) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
        assert all(response.success and response.agent_index == 1 for response in responses)
        assert "HTTPS port" in pool.statistics().agents[0].last_error


async def test_a_redirect_is_never_followed_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-secret")
    elsewhere = OddServer(good, everything=True)
    await elsewhere.start()
    where = f"http://127.0.0.1:{elsewhere.endpoint.port}/v1/completions?key=abc"
    server = OddServer(lambda _: http(b"", 307, headers={"Location": where}))
    await server.start()
    endpoint = AgentEndpoint("127.0.0.1", server.endpoint.port, {"api_key_env": "THE_KEY"})
    async with VLLMPool([endpoint], model="m", max_tokens=4, prompting=RAW, timeouts=Timeouts(patience=3)) as pool:
        (response,) = await pool.send_all_batched(["a"])
        assert f"redirects to http://127.0.0.1:{elsewhere.endpoint.port}" in (response.error or "")
        assert "abc" not in (response.error or "")
    assert not elsewhere.asked
    await server.close()
    await elsewhere.close()


async def test_the_agents_own_key_is_in_no_message(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("THE_KEY", "sk-secret")
    replies = [
        http(b'{"error":{"message":"Bearer sk-secret is no key"}}', 500),
        http(b"sk-secret <html>"),
        http(sse({"error": {"message": "sk-secret", "code": 500}}), content_type="text/event-stream"),
        http(b'{"error":"sk-secret"}', 401),
    ]
    for reply in replies:
        server = OddServer(lambda _, reply=reply: reply, everything=True)  # type: ignore[misc]
        await server.start()
        endpoint = AgentEndpoint("127.0.0.1", server.endpoint.port, {"api_key_env": "THE_KEY"})
        options: dict[str, Any] = {"max_tokens": 4, "prompting": RAW, "timeouts": Timeouts(patience=3)}
        async with VLLMPool([endpoint], model="m", **options) as pool:
            (response,) = await pool.send_all_batched(["a"])
            shown = [repr(response), repr(pool.statistics()), caplog.text]
            assert not response.success
        assert not any("sk-secret" in text for text in shown)
        assert any("***" in text for text in shown)
        with pytest.raises(Exception, match=r"\w") as raised:
            async with VLLMPool([endpoint], **options):
                pass
        error: BaseException | None = raised.value
        while error is not None:
            assert "sk-secret" not in repr(error)
            error = error.__cause__ or error.__context__
        await server.close()


@pytest.mark.parametrize("form", ["seconds", "date", "thousandths"])
async def test_a_server_is_left_alone_for_as_long_as_it_says(form: str) -> None:
    loop = asyncio.get_running_loop()
    began: list[float] = []

    def limited(asked: Asked) -> bytes:
        began.append(loop.time())
        if loop.time() < 29:
            date = format_datetime(datetime.now(UTC) + timedelta(seconds=31), usegmt=True)
            headers = {
                "seconds": {"Retry-After": "30"},
                "date": {"Retry-After": date},
                "thousandths": {"retry-after-ms": "30000"},
            }
            return http(b'{"error":{"message":"60 requests a minute"}}', 429, headers=headers[form])
        return good(asked)

    async with pool_of(limited) as (pool, _):
        asking = asyncio.create_task(pool.send_all_batched(["a"]))
        await asyncio.sleep(10)
        assert pool.statistics().agents[0].state == "rate-limited"
        assert "60 requests a minute" in pool.statistics().agents[0].last_error
        (response,) = await asking
        assert response.success
        assert len(began) == 2
        assert pool.statistics().agents[0].state == "in service"


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_is_overloaded_for_ever_ends_in_an_error(status: int, caplog: Any) -> None:
    overloaded = lambda _: http(b'{"error":{"message":"no more this month"}}', status)  # noqa: E731
    async with pool_of(overloaded, overloaded, timeouts=Timeouts(patience=10)) as (pool, _):
        responses = await asyncio.wait_for(pool.send_all_batched(PROMPTS), 100)
        assert {(r.success, r.error_kind) for r in responses} == {(False, "exhausted")}
        said = "all agents answered 503 or 429 for 50 s; the last: "
        errors = [response.error or "" for response in responses]
        assert all(error.startswith(said) and "no more this month" in error for error in errors)
    assert ("rate-limited" in caplog.text) == (status == 429)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_timeout_that_ends_it_first_tells_the_servers_words(status: int) -> None:
    overloaded = lambda _: http(b'{"error":{"message":"no more this month"}}', status)  # noqa: E731
    async with pool_of(overloaded, overloaded, timeout=2.0) as (pool, _):
        responses = await asyncio.wait_for(pool.send_all_batched(PROMPTS[:2]), 10)
        assert {response.error_kind for response in responses} == {"timeout"}
        assert all("within 2 s" in (r.error or "") and "no more this month" in (r.error or "") for r in responses)


class Proxy:
    """A server that takes long for each answer, behind a proxy that cuts what is idle for too long."""

    def __init__(self, seconds: float, tokens: int, cut: float = 60.0, says_so: bool = False) -> None:
        self.seconds, self.tokens, self.cut, self.says_so = seconds, tokens, cut, says_so
        self.cuts = 0

    async def __call__(self, asked: Asked) -> None:
        chat = "chat" in asked.path
        interval = asked.body.get("stream_interval", 0) if asked.body.get("stream") else self.tokens
        pause = self.seconds * interval / self.tokens
        if asked.body.get("stream"):
            asked.writer.write(begin())
        if min(pause, self.seconds) >= self.cut:
            self.cuts += 1
            await asyncio.sleep(self.cut)
            if self.says_so and not asked.body.get("stream"):  # as nginx does before a reply has begun
                asked.writer.write(http(b"<title>504 Gateway Time-out</title>", 504, "text/html"))
            else:
                asked.writer.transport.abort()
            return
        if not asked.body.get("stream"):
            await asyncio.sleep(self.seconds)
            asked.writer.write(good(asked))
            return
        for _ in range(int(self.tokens / interval)):
            await asyncio.sleep(pause)
            piece = {"choices": [{"index": 0, "delta": {"content": ""}}]} if chat else choice(0, "")
            asked.writer.write(chunk(sse(piece)))
        for index, prompt in enumerate(asked.prompts):
            end = {"choices": [{"index": 0, "delta": {"content": text_for(prompt)}, "finish_reason": "stop"}]}
            asked.writer.write(chunk(sse(end if chat else choice(index, text_for(prompt), "stop"))))
        asked.writer.write(chunk(sse(b"[DONE]")) + chunk(b""))


FORMS = ["lists", "chats", "texts alone"]


async def sent(pool: VLLMPool, form: str, prompts: Sequence[str]) -> list[Response]:
    """Send prompts in one of these forms."""
    if form == "lists":
        return await pool.send_all_batched(prompts)
    return await pool.send_all(as_chats(prompts) if form == "chats" else prompts)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seconds", [90, 600])
async def test_answers_that_take_longer_than_a_proxy_allows_are_answered(seconds: int, form: str) -> None:
    proxy = Proxy(seconds, tokens=1000)
    async with pool_of(proxy, proxy, max_tokens=1000) as (pool, _):
        responses = await asyncio.wait_for(sent(pool, form, PROMPTS[:20]), 20_000)
        assert all(r.success and r.text == text_for(p) for p, r in zip(PROMPTS, responses, strict=False))


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("says_so", [False, True], ids=["it breaks the connection", "it answers 504"])
async def test_a_short_answer_of_a_slow_agent_is_streamed_once_the_proxy_has_shown_itself(
    says_so: bool, form: str
) -> None:
    proxy = Proxy(90, tokens=64, says_so=says_so)
    async with pool_of(proxy, max_tokens=64) as (pool, _):
        responses = await asyncio.wait_for(sent(pool, form, PROMPTS[:4]), 20_000)
        assert all(response.success for response in responses)
        assert proxy.cuts <= 8


@pytest.mark.parametrize("form", FORMS)
async def test_an_agent_without_metrics_may_be_idle_seconds_as_long_as_it_answers_small_requests(form: str) -> None:
    async def slow(asked: Asked) -> None:
        await asyncio.sleep(600)
        asked.writer.write(good(asked))

    async with pool_of(slow, stream=False, max_tokens=1000) as (pool, (server,)):
        responses = await asyncio.wait_for(sent(pool, form, PROMPTS[:4]), 700)
        assert [response.text for response in responses] == [text_for(prompt) for prompt in PROMPTS[:4]]
        assert all(response.attempts == 1 for response in responses)
        assert sum(asked.is_probe for asked in server.asked) < 25


async def test_one_that_answers_no_small_request_either_is_given_up() -> None:
    async def hang(asked: Asked) -> None:
        await asyncio.sleep(10_000)

    def odd(asked: Asked) -> Any:
        return hang(asked) if "completions" in asked.path else good(asked)

    async with pool_of(odd, good, everything=True, stream=False, balance="strict") as (pool, _):
        responses = await asyncio.wait_for(pool.send_all_batched(PROMPTS), 400)
        assert all(response.success for response in responses)


async def test_connections_that_break_under_healthy_prompts_are_no_poison() -> None:
    broken = [0]

    async def breaks(asked: Asked) -> None:
        await asyncio.sleep(3)
        broken[0] += 1
        if broken[0] < 30:
            asked.writer.transport.abort()
            return
        asked.writer.write(good(asked))

    async with pool_of(breaks, breaks, stream=False) as (pool, _):
        responses = await pool.send_all_batched(PROMPTS)
        assert "poison" not in {response.error_kind for response in responses}
        assert pool.statistics().quarantined == 0


async def test_the_openai_client_is_handed_no_redirect() -> None:
    pytest.importorskip("openai")
    async with pool_of(lambda _: http(b"", 307, headers={"Location": "http://127.0.0.1:1/"}), good) as (pool, _):
        client = pool.openai_client()
        for _ in range(4):
            completion = await client.completions.create(model="m", prompt="a", max_tokens=4)
            assert completion.choices[0].text == text_for("a")
