"""Semantic and predictive entropy, against small cases worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest

from aurora_pool import ConfigError, Logprobs, Prompt, Response, Sampling
from aurora_pool.messages import AnyPrompt
from aurora_pool.patterns import semantic_entropy
from aurora_pool.patterns.uncertainty import entropy
from aurora_pool.testing import AgentProfile
from tests.patterns.fake_pool import FakePool
from tests.pool.running import running

MEANS = {"Paris": "P", "It is Paris.": "P", "Paris!": "P", "Rome": "R", "Rome, Italy": "R"}


def same_meaning(question: str, first: str, second: str) -> bool:
    assert question == "Where?"
    return MEANS[first] == MEANS[second]


def answering(*answers: tuple[str, list[float]]) -> Callable[[str], Response]:
    """Give these answers in turn, with the log-probabilities of their tokens."""
    turn: Iterator[tuple[str, list[float]]] = itertools.cycle(answers)

    def answer(prompt: str) -> Response:
        text, logprobs = next(turn)
        told = Logprobs(["t"] * len(logprobs), list(logprobs), [None] * len(logprobs)) if logprobs else None
        return Response(True, text, logprobs=told)

    return answer


async def test_by_hand() -> None:
    # Length-normalised likelihoods: exp(-0.5), exp(-1.0), exp(-2.0); the first two mean the same.
    pool = FakePool(answering(("Paris", [-0.2, -0.8]), ("It is Paris.", [-1.0] * 3), ("Rome", [-2.0])), window=1)
    (found,) = await semantic_entropy(pool, ["Where?"], 3, entails=same_meaning)
    paris, rome = math.exp(-0.5) + math.exp(-1.0), math.exp(-2.0)
    p = paris / (paris + rome)
    assert found.success
    assert found.clusters == (0, 0, 1)
    assert found.semantic_entropy == pytest.approx(-(p * math.log(p) + (1 - p) * math.log(1 - p)))
    assert found.semantic_entropy == pytest.approx(0.3708, abs=1e-4)
    assert found.discrete_semantic_entropy == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert found.predictive_entropy == pytest.approx((0.5 + 1.0 + 2.0) / 3)
    assert found.logprobs == pytest.approx((-0.5, -1.0, -2.0))


async def test_one_meaning_has_no_entropy_however_it_is_said() -> None:
    pool = FakePool(
        answering(("Paris", [-1.0]), ("It is Paris.", [-3.0]), ("Paris!", [-2.0]), ("Paris", [-1.0])), window=1
    )
    (found,) = await semantic_entropy(pool, ["Where?"], 4, entails=same_meaning)
    assert (found.clusters, found.semantic_entropy, found.discrete_semantic_entropy) == ((0, 0, 0, 0), 0.0, 0.0)
    assert found.predictive_entropy == pytest.approx(1.75)


async def test_n_meanings_alike_have_the_logarithm_of_n() -> None:
    pool = FakePool(answering(*((f"answer {n}", [-1.0]) for n in range(5))), window=1)
    (found,) = await semantic_entropy(pool, ["Where?"], 5, entails=lambda *_: False)
    assert found.semantic_entropy == pytest.approx(math.log(5))
    assert found.discrete_semantic_entropy == pytest.approx(math.log(5))


async def test_entailment_must_hold_both_ways() -> None:
    pool = FakePool(answering(("Paris", [-1.0]), ("Paris, France", [-1.0])), window=1)
    (found,) = await semantic_entropy(pool, ["Where?"], 2, entails=lambda _q, a, b: len(a) >= len(b))
    assert found.clusters == (0, 1)


async def test_the_fleet_is_asked_where_there_is_no_function() -> None:
    answers = answering(("Paris", [-1.0]), ("It is Paris.", [-1.0]), ("Rome", [-1.0]))

    def answer(prompt: str) -> Response:
        if not prompt.startswith("We are evaluating"):
            return answers(prompt)
        assert 'the question "Where?"' in prompt
        first, second = (line.partition(": ")[2] for line in prompt.splitlines() if line.startswith("Possible Answer"))
        return Response(True, " Entailment." if MEANS[first] == MEANS[second] else "neutral")

    pool = FakePool(answer, window=1)
    (found,) = await semantic_entropy(pool, ["Where?"], 3)
    assert found.clusters == (0, 0, 1)
    assert sum(prompt.startswith("We are") for prompt in pool.answered) == 4
    asked = [prompt.sampling for prompt in pool.sent if str(prompt.content) == "Where?"]
    assert {(s.temperature, s.logprobs) for s in asked if s is not None} == {(1.0, 1)}


async def test_without_log_probabilities_only_the_discrete_one_is_known() -> None:
    pool = FakePool(answering(("Paris", []), ("Rome", [])), window=1)
    (found,) = await semantic_entropy(pool, ["Where?"], 2, entails=same_meaning)
    assert (found.semantic_entropy, found.predictive_entropy, found.logprobs) == (None, None, ())
    assert found.discrete_semantic_entropy == pytest.approx(math.log(2))


async def test_what_fails_is_told() -> None:
    def failing(prompt: str) -> Response:
        return Response(False, "", "the agent is gone", None, "exhausted")

    (found,) = await semantic_entropy(FakePool(failing), ["Where?"], 3)
    assert (found.success, found.lost, found.error, found.error_kind) == (False, 3, "the agent is gone", "exhausted")
    turn = itertools.cycle([Response(True, "a"), Response(False, "", "gone", None, "exhausted"), Response(True, "b")])
    (found,) = await semantic_entropy(FakePool(lambda _: next(turn), window=1), ["Where?"], 3, entails=lambda *_: True)
    assert (found.success, found.lost, found.clusters) == (True, 1, (0, 0))


async def test_blank_answers_are_no_samples() -> None:
    turn = itertools.cycle(["a", "<think>Hm, ", " ", "b"])
    pool = FakePool(lambda _: next(turn), window=1)
    (found,) = await semantic_entropy(pool, ["Where?"], 4, entails=lambda *_: False)
    assert (found.success, found.lost, found.texts, found.clusters) == (True, 2, ("a", "b"), (0, 1))


async def test_a_comparison_that_fails_is_told() -> None:
    def answer(prompt: str) -> Response:
        if prompt.startswith("We are"):
            return Response(False, "", "too long", None, "rejected")
        return Response(True, str(len(pool.answered)))

    pool = FakePool(answer)
    (found,) = await semantic_entropy(pool, ["Where?"], 3)
    assert (found.success, found.error, found.error_kind) == (False, "too long", "rejected")
    assert len(found.texts) == 3


async def test_arguments() -> None:
    for n in (1, "3", 2.5):
        with pytest.raises(ConfigError, match="n: expected a whole number of at least 2"):
            await semantic_entropy(FakePool(str), ["a"], n)  # type: ignore[arg-type] # misuse
    with pytest.raises(ConfigError, match="temperature 0"):
        await semantic_entropy(FakePool(str), ["a"], 3, sampling=Sampling(temperature=0.0))


def test_entropy() -> None:
    assert entropy([1.0, 1.0, 2.0]) == pytest.approx(1.5 * math.log(2))
    assert entropy([7.0]) == 0.0


@pytest.mark.simulated_clock
async def test_on_a_fleet() -> None:
    async with running(2, profile=AgentProfile(slots=64, median_length=12)) as (_, pool):
        prompts: list[AnyPrompt] = ["Name a colour.", Prompt("Name a tree.")]
        found = await semantic_entropy(pool, prompts, 4, max_tokens=12, sampling=Sampling(seed=1))
        for one in found:
            assert one.success, one.error
            assert len(one.texts) == len(one.clusters) == len(one.logprobs) == 4
            assert one.predictive_entropy is not None
            assert one.predictive_entropy > 0
