"""The openai package's own client over a pool: unchanged code, balanced over the fleet."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import openai
import pytest

from aurora_pool import PoolClosedError, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.running import now, running, running_sequences

pytestmark = pytest.mark.simulated_clock

ECHO = AgentProfile(slots=32, reply=lambda prompt: f"You said: {prompt}")
LONG = AgentProfile(slots=32, reply="word " * 400)
HELLO: Any = [{"role": "user", "content": "Hello"}]


def generations(fleet: Any) -> list[int]:
    """How many requests for generation each agent received."""
    return [sum(r.path in ("/v1/completions", "/v1/chat/completions") for r in a.requests) for a in fleet.agents]


async def test_chat() -> None:
    async with running(2, profile=ECHO) as (fleet, pool):
        reply = await pool.openai_client().chat.completions.create(
            model="simulated-model", messages=HELLO, max_tokens=30
        )
        assert reply.choices[0].message.content == "You said: Hello"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        request = next(r for r in fleet.requests if r.path == "/v1/chat/completions")
        assert request.body == {"model": "simulated-model", "messages": HELLO, "max_tokens": 30}
        assert "authorization" not in request.headers


async def test_completions() -> None:
    async with running(2, profile=ECHO) as (_, pool):
        client = pool.openai_client()
        one = await client.completions.create(model="simulated-model", prompt="Hello", max_tokens=30)
        many = await client.completions.create(model="simulated-model", prompt=["a", "b"], max_tokens=30)
        assert one.choices[0].text == "You said: Hello"
        assert [choice.text for choice in many.choices] == ["You said: a", "You said: b"]


async def test_streaming() -> None:
    async with running(2, profile=ECHO) as (_, pool):
        client = pool.openai_client()
        stream = await client.chat.completions.create(
            model="simulated-model", messages=HELLO, max_tokens=30, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "You said: Hello"
        events = await client.completions.create(model="simulated-model", prompt="Hi", max_tokens=30, stream=True)
        assert "".join([event.choices[0].text async for event in events]) == "You said: Hi"


async def test_a_stream_comes_piece_by_piece() -> None:
    async with running(1, profile=LONG) as (_, pool):
        stream = await pool.openai_client().chat.completions.create(
            model="simulated-model", messages=HELLO, max_tokens=500, stream=True
        )
        times = [now() async for _ in stream]
        assert len(times) > 100
        assert times[-1] - times[0] > 1.0


async def test_embeddings_and_models() -> None:
    async with running(2, profile=AgentProfile(embedding_size=8)) as (_, pool):
        client = pool.openai_client()
        found = await client.embeddings.create(model="simulated-model", input=["a", "b"])
        assert [len(item.embedding) for item in found.data] == [8, 8]
        assert [model.id async for model in client.models.list()] == ["simulated-model"]


async def test_requests_are_balanced_over_the_agents() -> None:
    async with running(4, profile=ECHO) as (fleet, pool):
        client = pool.openai_client()
        ask = client.chat.completions.create
        replies = await asyncio.gather(
            *(ask(model="simulated-model", messages=HELLO, max_tokens=30) for _ in range(40))
        )
        assert len(replies) == 40
        counts = generations(fleet)
        assert max(counts) - min(counts) <= 6


async def test_requests_one_after_the_other_do_not_all_go_to_one_agent() -> None:
    async with running(4, profile=ECHO) as (fleet, pool):
        client = pool.openai_client()
        for _ in range(24):
            await client.chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=30)
        assert max(generations(fleet)) <= 12


async def test_a_view_has_a_client_of_its_own() -> None:
    async with running(3, profile=ECHO) as (fleet, pool):
        client = pool.select([2]).openai_client()
        for _ in range(3):
            await client.chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=30)
        assert generations(fleet) == [0, 0, 3]


async def test_an_agents_key_is_sent_and_the_clients_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-of-the-agent")
    profile = AgentProfile(slots=4, reply="yes", api_keys=("sk-of-the-agent",))
    async with running(1, profile=profile, tags=[{"api_key_env": "A_KEY"}]) as (fleet, pool):
        await pool.openai_client().chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=30)
        assert {r.headers.get("authorization") for r in fleet.requests} == {"Bearer sk-of-the-agent"}


class TestErrors:
    async def test_a_bad_request_is_the_clients_and_goes_to_one_agent(self) -> None:
        async with running(3, profile=ECHO) as (fleet, pool):
            with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 1") as raised:
                await pool.openai_client().chat.completions.create(
                    model="simulated-model", messages=HELLO, max_tokens=0
                )
            assert raised.value.status_code == 400
            assert sum(generations(fleet)) == 1
            assert pool.statistics().agents_in_service == 3

    async def test_an_unknown_model_is_not_found_and_leaves_the_fleet_in_service(self) -> None:
        async with running(3, profile=ECHO) as (fleet, pool):
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await pool.openai_client().chat.completions.create(model="nope", messages=HELLO)
            assert sum(generations(fleet)) == 1
            assert pool.statistics().agents_in_service == 3

    async def test_a_fleet_that_is_down_is_an_internal_server_error_after_the_patience(self) -> None:
        async with running(2, profile=ECHO, timeouts=Timeouts(patience=5.0)) as (fleet, pool):
            for agent in fleet.agents:
                agent.die()
            with pytest.raises(openai.InternalServerError, match="no agent in service") as raised:
                await pool.openai_client().chat.completions.create(model="simulated-model", messages=HELLO)
            assert raised.value.status_code == 503
            assert 5.0 <= now() <= 8.0

    async def test_the_clients_own_time_limit(self) -> None:
        async with running(1, profile=LONG) as (fleet, pool):
            client = pool.openai_client().with_options(timeout=1.0)
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=500)
            assert now() == pytest.approx(1.0, abs=0.5)
            await asyncio.sleep(0.1)
            assert running_sequences(fleet) == 0

    async def test_a_server_that_dies_in_the_middle_of_a_stream_breaks_it(self) -> None:
        async with running(2, profile=LONG) as (fleet, pool):
            stream = await pool.openai_client().chat.completions.create(
                model="simulated-model", messages=HELLO, max_tokens=500, stream=True
            )
            pieces = 0
            async for _ in stream:
                pieces += 1
                if pieces == 20:
                    break
            for agent in fleet.agents:
                agent.die()
            with pytest.raises(openai.APIConnectionError):
                _ = [piece async for piece in stream]

    async def test_a_closed_pool(self) -> None:
        async with running(1, profile=ECHO) as (_, pool):
            client = pool.openai_client()
        with pytest.raises(PoolClosedError, match="this pool is closed"):
            await client.chat.completions.create(model="simulated-model", messages=HELLO)

    async def test_a_fleet_that_was_never_there(self) -> None:
        async with SimulatedFleet(1) as fleet:
            fleet.agents[0].die()
            pool = VLLMPool(fleet.endpoints, timeouts=Timeouts(patience=2.0))
            with pytest.raises(openai.APIConnectionError) as raised:
                await pool.openai_client().chat.completions.create(model="simulated-model", messages=HELLO)
            assert "no agent tells what it serves" in str(raised.value.__cause__)
            await pool.close()


class TestFailingAgents:
    async def test_a_dead_agent_is_never_seen(self) -> None:
        async with running(3, profile=ECHO) as (fleet, pool):
            fleet.agents[0].die()
            client = pool.openai_client()
            replies = await asyncio.gather(
                *(client.completions.create(model="simulated-model", prompt=f"p{i}", max_tokens=30) for i in range(30))
            )
            assert [reply.choices[0].text for reply in replies] == [f"You said: p{i}" for i in range(30)]

    async def test_an_agent_that_dies_before_the_first_byte_is_replaced_by_another(self) -> None:
        async with running(2, profile=LONG) as (fleet, pool):
            client = pool.openai_client()
            calls = [
                asyncio.create_task(
                    client.chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=500)
                )
                for _ in range(6)
            ]
            await asyncio.sleep(1.0)
            fleet.agents[0].die()
            replies = await asyncio.gather(*calls)
            assert all((reply.choices[0].message.content or "").startswith("word") for reply in replies)
            assert Counter(generations(fleet))[0] == 0

    @pytest.mark.parametrize("fault", ["drain", "fail", "terminate"])
    async def test_draining_failing_and_terminated_agents_are_never_seen(self, fault: str) -> None:
        async with running(3, profile=ECHO) as (fleet, pool):
            getattr(fleet.agents[1], fault)()
            client = pool.openai_client()
            for i in range(20):
                reply = await client.completions.create(model="simulated-model", prompt=f"p{i}", max_tokens=30)
                assert reply.choices[0].text == f"You said: p{i}"

    async def test_a_busy_agent_sends_the_request_elsewhere(self) -> None:
        async with running(2, profile=ECHO) as (fleet, pool):
            fleet.agents[0].fail(503, message="The engine is currently busy")
            client = pool.openai_client()
            for i in range(10):
                reply = await client.completions.create(model="simulated-model", prompt=f"p{i}", max_tokens=30)
                assert reply.choices[0].text == f"You said: p{i}"


class TestStopping:
    async def test_cancelling_a_request_aborts_it_at_the_server(self) -> None:
        async with running(1, profile=LONG) as (fleet, pool):
            client = pool.openai_client()
            call = asyncio.create_task(
                client.chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=500)
            )
            await asyncio.sleep(0.5)
            assert running_sequences(fleet) == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(0.1)
            assert running_sequences(fleet) == 0
            assert pool.statistics().in_flight == 0

    async def test_leaving_a_stream_aborts_it_at_the_server(self) -> None:
        async with running(1, profile=LONG) as (fleet, pool):
            client = pool.openai_client()
            async with await client.chat.completions.create(
                model="simulated-model", messages=HELLO, max_tokens=500, stream=True
            ) as stream:
                async for _ in stream:
                    break
            await asyncio.sleep(0.1)
            assert running_sequences(fleet) == 0
            assert pool.statistics().in_flight == 0

    async def test_closing_the_pool_ends_a_request_that_waits(self) -> None:
        async with running(1, profile=LONG) as (fleet, pool):
            client = pool.openai_client()
            call = asyncio.create_task(
                client.chat.completions.create(model="simulated-model", messages=HELLO, max_tokens=500)
            )
            await asyncio.sleep(0.5)
            assert running_sequences(fleet) == 1
        async with asyncio.timeout(60):
            with pytest.raises(openai.APIConnectionError):
                await call

    async def test_closing_the_pool_ends_a_stream(self) -> None:
        async with running(1, profile=LONG) as (_, pool):
            stream = await pool.openai_client().chat.completions.create(
                model="simulated-model", messages=HELLO, max_tokens=500, stream=True
            )
            await anext(stream)
        async with asyncio.timeout(60):
            with pytest.raises(openai.APIConnectionError):
                _ = [piece async for piece in stream]

    async def test_a_slow_reader_does_not_make_the_pool_read_ahead_for_ever(self) -> None:
        async with running(1, profile=LONG) as (_, pool):
            client = pool.openai_client()
            stream = await client.chat.completions.create(
                model="simulated-model", messages=HELLO, max_tokens=500, stream=True
            )
            pieces = 0
            async for _ in stream:
                pieces += 1
                if pieces < 5:
                    await asyncio.sleep(20)
            assert pieces > 100
            assert pool.statistics().agents_in_service == 1


async def test_the_clients_requests_and_the_pools_prompts_share_the_fleet() -> None:
    async with running(2, profile=ECHO) as (_, pool):
        client = pool.openai_client()
        replies, responses = await asyncio.gather(
            asyncio.gather(
                *(client.completions.create(model="simulated-model", prompt=f"c{i}", max_tokens=30) for i in range(20))
            ),
            pool.send_all_batched([f"p{i}" for i in range(200)], max_tokens=30),
        )
        assert [reply.choices[0].text for reply in replies] == [f"You said: c{i}" for i in range(20)]
        assert [response.text for response in responses] == [f"You said: p{i}" for i in range(200)]


class TestCommitted:
    """Once bytes of a stream have reached the client, no second answer may follow."""

    async def stream(self, pool: VLLMPool, prompt: str) -> tuple[set[str], int]:
        events = await pool.openai_client().completions.create(
            model="simulated-model", prompt=prompt, max_tokens=500, stream=True
        )
        ids, text = set(), ""
        async for event in events:
            ids.add(event.id)
            text += event.choices[0].text
        return ids, text.count("word")

    async def test_a_stream_from_a_slow_agent_is_not_answered_twice(self) -> None:
        profiles = [AgentProfile(slots=32, reply="word " * 120, speed=speed) for speed in (1.0, 0.02)]
        async with running(2, profile=profiles) as (_, pool):
            await pool.send_all_batched([f"p{i}" for i in range(64)], max_tokens=200)
            found = await asyncio.gather(*(self.stream(pool, f"s{i}") for i in range(4)))
            assert [(len(ids), words) for ids, words in found] == [(1, 120)] * 4

    async def test_the_agents_end_breaks_a_stream_and_never_begins_it_again(self) -> None:
        async with running(2, profile=LONG, timeouts=Timeouts(stall=10.0)) as (fleet, pool):
            streams = [asyncio.create_task(self.stream(pool, f"s{i}")) for i in range(2)]
            await asyncio.sleep(1.0)
            fleet.agents[0].hang()
            found = await asyncio.gather(*streams, return_exceptions=True)
            broken = [one for one in found if isinstance(one, BaseException)]
            assert [type(one) for one in broken] == [openai.APIConnectionError]
            assert sum(bool(r.body and r.body.get("stream")) for r in fleet.requests) == 2

    async def test_the_pools_time_limit_ends_a_stream_and_hangs_no_client(self) -> None:
        async with running(1, profile=LONG, timeout=2.0) as (fleet, pool):
            with pytest.raises(openai.APIConnectionError) as raised:
                await self.stream(pool, "a")
            assert "no answer within 2 s" in str(raised.value.__cause__)
            assert 2.0 <= now() < 3.0
            await asyncio.sleep(0.1)
            assert running_sequences(fleet) == 0
            assert pool.statistics().in_flight == 0
