"""choose and score give the log-probabilities that a server gives when it is asked directly."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from aurora_pool import AgentEndpoint, PromptOptions, VLLMPool
from aurora_pool.patterns import choose, score
from tests.integration.servers import Model

PROMPT = "The capital of France is"
CHOICES = [" Paris", " London", " zebra", " the city of Paris"]
EXACT = 1e-4  # the same request in the same batch shape; the servers' floats are printed in full


async def ask(endpoint: AgentEndpoint, path: str, **body: Any) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.post(endpoint.base_url + path, json=body) as reply:
        assert reply.status == 200, await reply.text()
        found: dict[str, Any] = await reply.json()
        return found


async def tokens_of(endpoint: AgentEndpoint, text: str) -> list[int]:
    ids: list[int] = (await ask(endpoint, "/tokenize", prompt=text, add_special_tokens=False))["tokens"]
    return ids


async def told_by_prompt_logprobs(endpoint: AgentEndpoint, prompt: Any, ids: list[int]) -> float:
    """What a server says of the last tokens of a prompt."""
    reply = await ask(endpoint, "/v1/completions", prompt=prompt, max_tokens=1, temperature=0, prompt_logprobs=1)
    entries = reply["choices"][0]["prompt_logprobs"][-len(ids) :]
    pairs = zip(entries, ids, strict=True)
    return float(sum(entry[str(token)]["logprob"] for entry, token in pairs if entry is not None))


async def test_choices_have_the_servers_own_probabilities(endpoints: list[AgentEndpoint], model: Model) -> None:
    async with VLLMPool(endpoints[:1], prompting=PromptOptions(prompt_format="raw")) as pool:
        [choice] = await choose(pool, [PROMPT], CHOICES)

    server = endpoints[0]
    direct = await ask(server, "/v1/completions", prompt=PROMPT, max_tokens=1, temperature=0, logprobs=20)
    [top] = direct["choices"][0]["logprobs"]["top_logprobs"]
    assert " Paris" in top
    for text in CHOICES:
        ids = await tokens_of(server, text)
        if len(ids) == 1 and text in top:
            told = top[text]
        else:
            told = await told_by_prompt_logprobs(server, [*await tokens_of(server, PROMPT), *ids], ids)
        assert choice.logprobs[text] == pytest.approx(told, abs=EXACT), text
    assert choice.answer == " Paris"
    assert sum(choice.probabilities.values()) == pytest.approx(1)


async def test_next_token_and_continuation_agree(endpoints: list[AgentEndpoint]) -> None:
    """The two ways to a probability are one: what comes next, and what a text that goes on so would have had."""
    server = endpoints[0]
    direct = await ask(server, "/v1/completions", prompt=PROMPT, max_tokens=1, temperature=0, logprobs=20)
    [top] = direct["choices"][0]["logprobs"]["top_logprobs"]
    ids = await tokens_of(server, " Paris")
    told = await told_by_prompt_logprobs(server, [*await tokens_of(server, PROMPT), *ids], ids)

    assert told == pytest.approx(top[" Paris"], abs=0.05)  # another batch shape: bfloat16 rounds differently


async def test_in_a_chat_choices_stand_where_the_answer_would(endpoints: list[AgentEndpoint], model: Model) -> None:
    question = "Is Paris the capital of France? Answer yes or no."
    async with VLLMPool(endpoints[:1], prompting=PromptOptions(prompt_format="chat")) as pool:
        [choice] = await choose(pool, [question], ["Yes", "No"])

    messages = [{"role": "user", "content": question}]
    direct = await ask(
        endpoints[0],
        "/v1/chat/completions",
        messages=messages,
        max_tokens=1,
        temperature=0,
        logprobs=True,
        top_logprobs=20,
    )
    [told] = direct["choices"][0]["logprobs"]["content"]
    top = {entry["token"]: entry["logprob"] for entry in told["top_logprobs"]}
    shared = {text for text in ("Yes", "No") if text in top}
    assert shared
    for text in shared:
        assert choice.logprobs[text] == pytest.approx(top[text], abs=EXACT)


async def test_scores_are_the_servers_own(endpoints: list[AgentEndpoint]) -> None:
    texts = ["Paris is the capital of France.", "France Paris of the capital is."]
    for text in texts:  # one at a time: the same batch shape as a direct call
        async with VLLMPool(endpoints[:1]) as pool:
            [scored] = await score(pool, [text])
        ids = await tokens_of(endpoints[0], text)
        told = await told_by_prompt_logprobs(endpoints[0], text, ids)
        assert scored.success
        assert scored.tokens in {len(ids) - 1, len(ids)}
        assert scored.logprob == pytest.approx(told, abs=EXACT)


async def test_sense_is_likelier_than_nonsense(pool: VLLMPool) -> None:
    sense, nonsense = await score(pool, ["Paris is the capital of France.", "France Paris of the capital is."])

    assert sense.logprob > nonsense.logprob
    assert sense.perplexity < nonsense.perplexity


async def test_many_choices_at_once(pool: VLLMPool) -> None:
    prompts = [f"{n} plus 1 is" for n in range(1, 9)]
    chosen = await choose(pool, prompts, [f" {n}" for n in range(2, 10)])

    assert all(choice.success for choice in chosen)
    assert all(sum(choice.probabilities.values()) == pytest.approx(1) for choice in chosen)
