"""Probabilities are exactly those that a server tells when it is asked directly."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from aurora_pool import PromptOptions, VLLMPool
from aurora_pool.errors import ConfigError, ConnectFailed
from aurora_pool.messages import AnyPrompt, Logprobs, Prompt, Response, Sampling
from aurora_pool.patterns import choose, score
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.patterns.fake_pool import FakePool

pytestmark = pytest.mark.simulated_clock

PROMPTS = ["Is the sun hot? Answer:", "Is the sea dry? Answer:"]
CHOICES = [" the", " sun", " of", " improbable"]


@asynccontextmanager
async def fleet_and_pool(**profile: Any) -> AsyncIterator[tuple[SimulatedFleet, VLLMPool]]:
    async with (
        SimulatedFleet(2, profile=AgentProfile(**profile)) as fleet,
        VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="raw")) as pool,
    ):
        yield fleet, pool


async def ask(fleet: SimulatedFleet, path: str, **body: Any) -> dict[str, Any]:
    """Ask a server directly."""
    url = fleet.endpoints[0].base_url + path
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as reply:
        found: dict[str, Any] = await reply.json()
        return found


async def token_ids(fleet: SimulatedFleet, text: str) -> list[int]:
    ids: list[int] = (await ask(fleet, "/tokenize", prompt=text, add_special_tokens=False))["tokens"]
    return ids


@pytest.mark.parametrize("begins_with_token", [False, True])
async def test_choices_have_the_probabilities_that_the_server_tells(begins_with_token: bool) -> None:
    async with fleet_and_pool(begins_with_token=begins_with_token) as (fleet, pool):
        chosen = await choose(pool, PROMPTS, CHOICES)
        for prompt, choice in zip(PROMPTS, chosen, strict=True):
            direct = (
                await ask(
                    fleet,
                    "/v1/completions",
                    prompt=prompt,
                    max_tokens=1,
                    temperature=0,
                    logprobs=20,
                    return_token_ids=True,
                )
            )["choices"][0]
            top = direct["logprobs"]["top_logprobs"][0]
            for text in CHOICES:
                ids = await token_ids(fleet, text)
                if len(ids) == 1 and text in top:
                    assert choice.logprobs[text] == top[text]
                    continue
                whole = [*direct["prompt_token_ids"], *ids]
                reply = await ask(fleet, "/v1/completions", prompt=whole, max_tokens=1, prompt_logprobs=1)
                entries = reply["choices"][0]["prompt_logprobs"][-len(ids) :]
                told = sum(entry[str(token)]["logprob"] for entry, token in zip(entries, ids, strict=True))
                assert choice.logprobs[text] == pytest.approx(told, abs=1e-12)
            assert choice.success
            assert sum(choice.probabilities.values()) == pytest.approx(1)
            assert choice.answer == max(CHOICES, key=choice.logprobs.__getitem__)
            assert choice.probabilities[" sun"] / choice.probabilities[" the"] == pytest.approx(
                math.exp(choice.logprobs[" sun"] - choice.logprobs[" the"])
            )


async def test_likely_choices_of_one_token_cost_one_token_per_prompt() -> None:
    async with fleet_and_pool(reply=" the") as (fleet, pool):
        await choose(pool, ["one", "two", "three"], [" the", " more"])
        asked = [p for r in fleet.requests if r.path == "/v1/completions" for p in r.body["prompt"]]
        assert sorted(asked) == ["one", "three", "two"]


async def test_in_a_chat_format_choices_stand_where_the_chat_endpoint_would_answer() -> None:
    async with (
        SimulatedFleet(1, profile=AgentProfile(reply=" the")) as fleet,
        VLLMPool(fleet.endpoints, prompting=PromptOptions(prompt_format="chat")) as pool,
    ):
        [choice] = await choose(pool, ["Is the sun hot?"], [" the", " more"])
        messages = [{"role": "user", "content": "Is the sun hot?"}]
        direct = await ask(
            fleet,
            "/v1/chat/completions",
            messages=messages,
            max_tokens=1,
            temperature=0,
            logprobs=True,
            top_logprobs=20,
        )
        [told] = direct["choices"][0]["logprobs"]["content"]
        assert choice.logprobs == {
            top["token"]: top["logprob"] for top in told["top_logprobs"] if top["token"] in {" the", " more"}
        }


async def test_conversations_can_be_chosen_for() -> None:
    async with fleet_and_pool() as (_, pool):
        [choice] = await choose(pool, [[{"role": "user", "content": "Is the sun hot?"}]], CHOICES)
        assert choice.success
        assert set(choice.logprobs) == set(CHOICES)


async def test_a_prompt_that_fails_has_no_choice_and_the_others_do() -> None:
    async with fleet_and_pool() as (_, pool):
        good, bad = await choose(pool, ["fine", ""], CHOICES)
        assert good.success
        assert (bad.success, bad.answer, bad.logprobs, bad.error_kind) == (False, None, {}, "rejected")
        assert "cannot be empty" in str(bad.error)


async def test_a_choice_that_does_not_fit_the_context_fails_its_prompt() -> None:
    async with fleet_and_pool(max_model_len=32) as (_, pool):
        [choice] = await choose(pool, ["x" * 62], [" the", " a long unlikely answer"])
        assert (choice.success, choice.error_kind) == (False, "rejected")


@pytest.mark.parametrize("choices", [[], [" yes"], [" yes", ""], [" yes", " yes"]])
async def test_invalid_choices_are_refused(choices: list[str]) -> None:
    pool = FakePool(str)
    with pytest.raises(ConfigError, match="two or more different choices"):
        await choose(pool, ["a"], choices)
    assert pool.sent == []


async def test_choices_with_the_same_tokens_are_refused() -> None:
    class Deaf(FakePool):
        async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [1]

    with pytest.raises(ConfigError, match="same tokens for two of the choices"):
        await choose(Deaf(str), ["a"], ["é", "e\u0301"])


async def test_choices_are_tokenized_as_they_stand_within_a_text() -> None:
    class SpaceFirst(FakePool):
        """Puts a space before every text, as some tokenizers do."""

        async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            assert not add_special_tokens
            return list(f" {text}".encode())

    pool = SpaceFirst(lambda _: Response(True, "", prompt_token_ids=[1], logprobs=Logprobs(["x"], [0.0], [{}])))
    (lost,) = await choose(pool, ["a"], [" y", "n"])
    assert "prompt_logprobs" in (lost.error or "")
    assert {tuple(p.content) for p in pool.sent[1:]} == {(1, *b" y"), (1, *b"n")}


async def test_likely_choices_need_no_second_look() -> None:
    top = {"token_id:89": -0.5, "token_id:78": -1.5}
    pool = FakePool(lambda _: Response(True, "Y", logprobs=Logprobs(["Y"], [-0.5], [top])))
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    prompt = Prompt("a", Sampling(seed=1, extra=thinking), max_tokens=9, format="raw")
    [choice] = await choose(pool, [prompt], ["N", "Y"])
    assert (choice.answer, choice.logprobs) == ("Y", {"N": -1.5, "Y": -0.5})
    assert choice.probabilities["Y"] == pytest.approx(1 / (1 + math.exp(-1)))
    [sent] = pool.sent
    assert (sent.max_tokens, sent.format) == (1, "raw")
    assert sent.sampling is not None
    assert sent.sampling.seed is None
    assert sent.sampling.extra == {**thinking, "return_tokens_as_token_ids": True}


async def test_a_prompt_whose_server_leaves_the_token_ids_out_fails_alone() -> None:
    top = Logprobs(["Y"], [-0.1], [{"token_id:89": -0.1, "token_id:78": -3.0}])
    told = Response(True, "Y", logprobs=top, prompt_token_ids=[1])
    pool = FakePool(lambda text: told if text == "b" else Response(True, "Y", agent_index=2))
    lost, found = await choose(pool, ["a", "b"], ["Y", "N"])
    assert (lost.success, lost.error_kind) == (False, "exhausted")
    assert lost.error == "agent 2 did not tell the prompt_token_ids that it was asked for"
    assert (found.success, found.answer) == (True, "Y")


class Flapping(FakePool):
    """Its agents go each time that they are asked for tokens, ``times`` times in a row."""

    times = 0

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        if self.times > 0:
            self.times -= 1
            raise ConnectFailed("connection refused")
        return list(text.encode())

    async def ask(
        self, prompt: AnyPrompt, max_tokens: int | None = None, *, sampling: Sampling | None = None
    ) -> Response:
        assert isinstance(prompt, str)
        return self.respond(Prompt(prompt, sampling, max_tokens))


def answer_or_refuse_small_talk(text: str) -> Response:
    if text == "Hi":
        return Response(False, "", "no small talk", error_kind="rejected")
    return Response(True, "Y", logprobs=Logprobs(["Y"], [-0.5], [{"token_id:89": -0.5, "token_id:78": -1.5}]))


async def test_choices_are_found_once_agents_stay_whatever_became_of_the_prompt_that_waited() -> None:
    pool = Flapping(answer_or_refuse_small_talk)
    pool.times = 2
    (choice,) = await choose(pool, ["a"], ["N", "Y"])
    assert (choice.answer, pool.times) == ("Y", 0)


async def test_agents_that_answer_and_never_tell_tokens_end_the_call() -> None:
    pool = Flapping(answer_or_refuse_small_talk)
    pool.times = 100
    with pytest.raises(ConnectFailed):
        await choose(pool, ["a"], ["N", "Y"])


async def test_scores_are_the_sums_of_what_the_server_tells() -> None:
    texts: list[str | list[int]] = ["the sun of all", "x", [65, 66, 67]]
    async with fleet_and_pool() as (fleet, pool):
        scores = await score(pool, texts)
        for text, scored in zip(texts, scores, strict=True):
            ids = await token_ids(fleet, text) if isinstance(text, str) else text
            reply = await ask(fleet, "/v1/completions", prompt=text, max_tokens=1, prompt_logprobs=0)
            entries = reply["choices"][0]["prompt_logprobs"]
            told = [entry[str(token)]["logprob"] for entry, token in zip(entries[1:], ids[1:], strict=True)]
            assert (scored.success, scored.tokens) == (True, len(ids) - 1)
            assert scored.logprob == pytest.approx(sum(told), abs=1e-12)
    assert scores[0].perplexity == pytest.approx(math.exp(-scores[0].logprob / scores[0].tokens))
    assert scores[1].perplexity == math.inf


async def test_a_text_that_cannot_be_scored_says_why() -> None:
    async with fleet_and_pool() as (_, pool):
        good, bad = await score(pool, ["the sun", ""])
        assert good.success
        assert (bad.success, bad.error_kind) == (False, "rejected")


async def test_without_an_agent_choices_and_scores_fail_after_the_patience_as_prompts_do() -> None:
    async with fleet_and_pool() as (fleet, pool):
        for agent in fleet.agents:
            agent.die()
        now = asyncio.get_running_loop().time
        began = now()
        chosen = await choose(pool, PROMPTS, CHOICES)
        assert now() - began == pytest.approx(pool.timeouts.patience, abs=5.0)
        assert [(choice.success, choice.error_kind) for choice in chosen] == [(False, "no_agents")] * 2
        scored = await score(pool, ["the sun", [65, 66], "the sea"])
        assert [(found.success, found.error_kind) for found in scored] == [(False, "no_agents")] * 3


async def test_choices_and_scores_wait_for_an_agent_that_comes_back() -> None:
    async with fleet_and_pool() as (fleet, pool):
        expected = await choose(pool, PROMPTS, CHOICES), await score(pool, ["the sun", "the sea"])
        for ask, before in zip(
            (choose(pool, PROMPTS, CHOICES), score(pool, ["the sun", "the sea"])), expected, strict=True
        ):
            for agent in fleet.agents:
                agent.die()
            asyncio.get_running_loop().call_later(20.0, fleet.agents[1].revive)
            assert await ask == before


@pytest.mark.parametrize("told", [None, [], ["x"], [{}], [{"97": None}], [{"97": {"logprob": "x"}}], [[]]])
async def test_a_text_whose_server_tells_no_logprobs_fails_alone(told: Any) -> None:
    def answer(text: str) -> Response:
        good = [{"98": {"logprob": -0.5}}]
        return Response(True, "", agent_index=1, prompt_logprobs=good if text == "[98]" else told)

    lost, found = await score(FakePool(answer), ["a", "b"])
    assert (lost.success, lost.error_kind) == (False, "exhausted")
    assert lost.error == "agent 1 did not tell the prompt_logprobs that it was asked for"
    assert (found.success, found.logprob) == (True, -0.5)
