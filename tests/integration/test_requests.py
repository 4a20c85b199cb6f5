from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest

from aurora_pool import AgentEndpoint, Prompt, Response, Sampling, VLLMPool
from aurora_pool.messages import AnyPrompt
from tests.integration.conftest import GREEDY
from tests.integration.servers import Model, read_idle

QUESTION = "What is the capital of France?"


@pytest.fixture
async def pool(endpoints: list[AgentEndpoint]) -> AsyncIterator[VLLMPool]:
    """A pool that does not hedge: a server that is slow for a moment changes nothing in who is asked what."""
    async with VLLMPool(endpoints, sampling=GREEDY, balance="strict") as opened:
        yield opened


def assert_answered(response: Response) -> None:
    assert response.success, response.error
    assert response.text
    assert response.finish_reason in ("stop", "length")
    assert response.prompt_tokens
    assert response.completion_tokens
    assert response.attempts == 1
    assert response.latency > 0


async def test_the_model_is_found(pool: VLLMPool, model: Model) -> None:
    await pool.start()

    assert pool.model == model.name


async def test_post_asks_that_agent(pool: VLLMPool, endpoints: list[AgentEndpoint]) -> None:
    before = await read_idle(endpoints)

    for agent_index in (1, 0, 1):
        response = await pool.post(agent_index, QUESTION, 16)
        assert_answered(response)
        assert response.agent_index == agent_index

    after = await read_idle(endpoints)
    assert [new.chats - old.chats for new, old in zip(after, before, strict=True)][:2] == [1, 2]


async def test_post_batch_is_one_list_request_to_that_agent(pool: VLLMPool, endpoints: list[AgentEndpoint]) -> None:
    before = await read_idle(endpoints)

    responses = await pool.post_batch(1, [f"{QUESTION} Answer {n}:" for n in range(8)], 8)

    for response in responses:
        assert_answered(response)
        assert response.agent_index == 1
    after = await read_idle(endpoints)
    assert [new.completions - old.completions for new, old in zip(after, before, strict=True)][:2] == [0, 1]


async def test_each_agent_gets_one_list_and_answers_come_back_in_order(
    pool: VLLMPool, endpoints: list[AgentEndpoint]
) -> None:
    prompts = [f"The number {n} is followed by the number" for n in range(10 * len(endpoints))]
    raw = [Prompt(prompt, format="raw") for prompt in prompts]  # echo means something else for a conversation
    before = await read_idle(endpoints)

    responses = await pool.send_all_batched(raw, 16, sampling=Sampling(temperature=0.0, extra={"echo": True}))

    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        assert_answered(response)
        assert prompt in response.text
        assert response.agent_index == index % len(endpoints)
    after = await read_idle(endpoints)
    assert [new.completions - old.completions for new, old in zip(after, before, strict=True)] == [1] * len(endpoints)


async def test_send_all_is_one_chat_request_a_prompt(pool: VLLMPool, endpoints: list[AgentEndpoint]) -> None:
    before = await read_idle(endpoints)

    responses = await pool.send_all([f"What is {n} + {n}?" for n in range(3 * len(endpoints))], 16)

    for index, response in enumerate(responses):
        assert_answered(response)
        assert response.agent_index == index % len(endpoints)
    after = await read_idle(endpoints)
    assert [new.chats - old.chats for new, old in zip(after, before, strict=True)] == [3] * len(endpoints)


async def test_prompts_of_every_kind_mix_and_each_is_answered_once(pool: VLLMPool) -> None:
    conversation = [{"role": "user", "content": QUESTION}]
    kinds: list[AnyPrompt] = ["The sky is", [1, 2, 3, 4], conversation, Prompt("Roses are", max_tokens=4)]

    seen = [(index, response) async for index, response in pool.iter_responses(kinds * 5, 8)]

    assert sorted(index for index, _ in seen) == list(range(20))
    for index, response in seen:
        assert_answered(response)
        if index % 4 == 3:
            assert response.completion_tokens is not None
            assert response.completion_tokens <= 4


async def test_broadcast_asks_every_agent(pool: VLLMPool, endpoints: list[AgentEndpoint]) -> None:
    responses = await pool.broadcast_prompt(QUESTION, 8)

    assert [response.agent_index for response in responses] == list(range(len(endpoints)))
    for response in responses:
        assert_answered(response)


async def test_max_tokens_is_fitted_to_the_model(pool: VLLMPool, model: Model) -> None:
    # Were max_tokens not sent, the server would stop after 16 tokens.
    prompt = "word " * (model.context - model.context // 16)

    [response] = await pool.send_all_batched([prompt], sampling=Sampling(temperature=0.0, extra={"ignore_eos": True}))

    assert_answered(response)
    assert response.prompt_tokens is not None
    assert response.completion_tokens is not None
    assert response.completion_tokens > 16
    assert response.prompt_tokens + response.completion_tokens <= model.context


@pytest.mark.parametrize(
    "content", ["The capital of France is", [{"role": "user", "content": QUESTION}]], ids=["completions", "chat"]
)
async def test_logprobs(pool: VLLMPool, content: str | list[dict[str, str]]) -> None:
    [response] = await pool.send_all_batched([content], 6, sampling=Sampling(temperature=0.0, logprobs=3))

    assert_answered(response)
    logprobs = response.logprobs
    assert logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top) == response.completion_tokens
    assert "".join(logprobs.tokens).startswith(response.text)
    for chosen, best in zip(logprobs.token_logprobs, logprobs.top, strict=True):
        assert best is not None
        assert chosen == max(best.values()) <= 0  # temperature 0 takes the likeliest token
        assert len(best) >= 3


async def test_prompt_logprobs_and_token_ids(pool: VLLMPool) -> None:
    sampling = Sampling(temperature=0.0, prompt_logprobs=1, return_token_ids=True)

    [response] = await pool.send_all_batched(["The capital of France is"], 4, sampling=sampling)

    assert_answered(response)
    assert response.token_ids is not None
    assert len(response.token_ids) == response.completion_tokens
    assert response.prompt_token_ids is not None
    assert len(response.prompt_token_ids) == response.prompt_tokens
    assert response.prompt_logprobs is not None
    assert len(response.prompt_logprobs) == response.prompt_tokens
    assert response.prompt_logprobs[0] is None  # nothing comes before the first token


async def test_one_too_long_prompt_among_20_fails_alone(pool: VLLMPool, model: Model) -> None:
    prompts = [f"The number {n} is" for n in range(20)]
    prompts[7] = "word " * (2 * model.context)

    responses = await pool.send_all_batched(prompts, 8)

    [failed] = [index for index, response in enumerate(responses) if not response.success]
    assert failed == 7
    assert responses[7].error_kind == "rejected"
    assert f"maximum context length is {model.context} tokens" in (responses[7].error or "")


async def test_a_connection_that_the_server_closed_meanwhile_costs_nothing(pool: VLLMPool) -> None:
    assert_answered(await pool.post(0, QUESTION, 4))
    await asyncio.sleep(5.5)  # a vLLM server closes an idle connection after 5 s

    assert_answered(await pool.post(0, QUESTION, 4))


async def test_the_openai_client_works_over_the_pool(pool: VLLMPool, model: Model) -> None:
    client = pool.openai_client()

    completion = await client.chat.completions.create(
        model=model.name, messages=[{"role": "user", "content": QUESTION}], max_tokens=16, temperature=0
    )
    assert completion.choices[0].message.content
    stream = await client.completions.create(model=model.name, prompt="Once upon", max_tokens=8, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        await client.completions.create(model="no-such-model", prompt="Once upon")
