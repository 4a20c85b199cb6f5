"""How sure a model is of its answers, by how much its samples differ in meaning.

Predictive entropy sums over sequences; semantic entropy first puts together what means the same, so that saying one
thing in many ways does not count as not knowing: Kuhn, Gal, Farquhar, "Semantic Uncertainty", ICLR 2023, and Farquhar,
Kossen, Kuhn, Gal, "Detecting hallucinations in large language models using semantic entropy", Nature 630, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from aurora_pool.arguments import check_callable, check_whole
from aurora_pool.messages import AnyPrompt, ErrorKind, Prompt, Response, Sampling
from aurora_pool.patterns.gather import sample_many
from aurora_pool.patterns.templates import render, strip_reasoning
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.pool_options import CallOptions, listed

__all__ = ["Entails", "Uncertainty", "semantic_entropy"]

Entails: TypeAlias = Callable[[str, str, str], bool]
"""Tells whether, as an answer to a question, a first text entails a second: ``entails(question, first, second)``."""

ENTAILMENT_PROMPT = """\
We are evaluating answers to the question "{question}"
Here are two possible answers:
Possible Answer 1: {first}
Possible Answer 2: {second}
Does Possible Answer 1 semantically entail Possible Answer 2? Respond with entailment, contradiction, or neutral.
"""
"""What the fleet is asked for each pair, after Farquhar et al. 2024."""
VERDICT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What the samples of one prompt say about how sure the model is. Entropies are in nats.

    - ``semantic_entropy``: over the clusters of meaning, each weighted by the length-normalised likelihood of its
      samples, and normalised so that the clusters add up to 1 (Farquhar et al. 2024).
    - ``discrete_semantic_entropy``: the same with every sample weighted alike; it needs no log-probabilities.
    - ``predictive_entropy``: the mean of the samples' negative length-normalised log-probabilities (Malinin, Gales
      2021); None, like ``semantic_entropy``, where a server tells none.
    - ``clusters``: for each of ``texts``, the number of its cluster, counted from 0 as they first came.
    - ``logprobs``: for each text, the mean log-probability of its tokens.
    - ``lost``: how many samples got no answer, or a blank one.

    ``success`` is False, and the entropies None, where fewer than two samples were answered or one comparison failed.
    """

    success: bool
    semantic_entropy: float | None = None
    discrete_semantic_entropy: float | None = None
    predictive_entropy: float | None = None
    clusters: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    lost: int = 0
    error: str | None = None
    error_kind: ErrorKind | None = None


async def semantic_entropy(
    pool: TextPool,
    prompts: Iterable[AnyPrompt],
    n: int = 10,
    max_tokens: int | None = None,
    *,
    sampling: Sampling | None = None,
    entails: Entails | None = None,
    clean: Callable[[str], str] = strip_reasoning,
) -> list[Uncertainty]:
    """Answer every prompt ``n`` times and tell how much its answers differ in meaning.

    ::

        for prompt, found in zip(prompts, await semantic_entropy(pool, prompts, n=10, max_tokens=40)):
            print(prompt, found.semantic_entropy, len(set(found.clusters)))

    Two answers mean the same if each entails the other. A new answer is compared with the first of each cluster: by the
    pool's own model, asked as in Farquhar et al., or by ``entails``, a function of one's own (an NLI model, say). Equal
    texts are not compared. ``sampling`` is that of the answers; without a temperature it is 1.0. ``clean`` is called
    with each answer.

    Raises :class:`~aurora_pool.errors.ConfigError` if ``n`` is less than 2, or if the temperature is 0.
    """
    check_whole(2, optional=False, n=n)  # one alone differs from nothing
    CallOptions(max_tokens, sampling, batched=True)
    check_callable(entails=entails, clean=clean)
    prompts = listed(prompts)
    asked = [_with_logprobs(prompt, sampling) for prompt in prompts]
    answers = await sample_many(pool, asked, n, max_tokens)
    states = [_Clustering(_words_of(prompt), group, clean) for prompt, group in zip(asked, answers, strict=True)]
    while pairs := [(state, pair) for state in states for pair in state.to_compare()]:
        if entails is not None:
            verdicts: list[bool | Response] = [entails(state.question, *pair) for state, pair in pairs]
        else:
            verdicts = [_verdict(response) for response in await _ask(pool, pairs)]
        for (state, pair), verdict in zip(pairs, verdicts, strict=True):
            state.record(pair, verdict)
    return [state.result() for state in states]


def entropy(weights: Sequence[float]) -> float:
    """The entropy, in nats, of probabilities in proportion to these weights.

    >>> round(entropy([1, 1]), 4), entropy([5, 0])
    (0.6931, 0.0)
    """
    total = sum(weights)
    return -sum(weight / total * math.log(weight / total) for weight in weights if weight > 0) or 0.0


class _Clustering:
    """The answers to one prompt, put into clusters one after the other."""

    def __init__(self, question: str, responses: Sequence[Response], clean: Callable[[str], str]) -> None:
        self.question = question
        self.failed = next((response for response in responses if not response.success), None)
        cleaned = [(clean(response.text), response) for response in responses if response.success]
        answered = [(text, response) for text, response in cleaned if text.strip()]
        self.lost = len(responses) - len(answered)
        self.texts = [text for text, _ in answered]
        self.logprobs = [_mean_logprob(response) for _, response in answered]
        self.clusters: list[int] = []
        self._first: list[str] = []
        """The first text of each cluster."""
        self._known: dict[tuple[str, str], bool] = {}
        self._cluster()

    def to_compare(self) -> list[tuple[str, str]]:
        """The pairs of texts of which it must be known whether the first entails the second, for the next answer."""
        if len(self.clusters) == len(self.texts) or self._broken:
            return []
        text = self.texts[len(self.clusters)]
        pairs = [pair for first in self._first for pair in ((first, text), (text, first))]
        return [pair for pair in pairs if pair not in self._known]

    def record(self, pair: tuple[str, str], verdict: bool | Response) -> None:
        if isinstance(verdict, Response):
            self.failed = verdict
            self._broken = True
        else:
            self._known[pair] = verdict
            self._cluster()

    _broken = False

    def _cluster(self) -> None:
        """Put answers into clusters as far as is known where they belong."""
        while len(self.clusters) < len(self.texts):
            text = self.texts[len(self.clusters)]
            if text in self._first:
                self.clusters.append(self._first.index(text))
                continue
            if self.to_compare():
                return
            same = [self._known[first, text] and self._known[text, first] for first in self._first]
            if True not in same:
                self._first.append(text)
            self.clusters.append(same.index(True) if True in same else len(self._first) - 1)

    def result(self) -> Uncertainty:
        texts = tuple(self.texts)
        if self._broken or len(texts) < 2:
            error = self.failed.error if self.failed is not None else "fewer than two samples were answered"
            kind = self.failed.error_kind if self.failed is not None else None
            return Uncertainty(False, texts=texts, lost=self.lost, error=error, error_kind=kind)
        members = [[i for i, cluster in enumerate(self.clusters) if cluster == c] for c in range(len(self._first))]
        logprobs = [logprob for logprob in self.logprobs if logprob is not None]
        weighted = predictive = None
        if len(logprobs) == len(texts):
            weighted = entropy([sum(math.exp(logprobs[i]) for i in cluster) for cluster in members])
            predictive = -sum(logprobs) / len(logprobs)
        else:
            logprobs = []
        discrete = entropy([len(cluster) for cluster in members])
        return Uncertainty(
            True, weighted, discrete, predictive, tuple(self.clusters), texts, tuple(logprobs), self.lost
        )


async def _ask(pool: TextPool, pairs: Sequence[tuple[_Clustering, tuple[str, str]]]) -> list[Response]:
    prompts = [
        render(ENTAILMENT_PROMPT, question=state.question, first=first, second=second)
        for state, (first, second) in pairs
    ]
    return await pool.send_all_batched(prompts, VERDICT_TOKENS, sampling=Sampling(temperature=0.0))


def _verdict(response: Response) -> bool | Response:
    return "entail" in strip_reasoning(response.text).lower() if response.success else response


def _with_logprobs(prompt: AnyPrompt, sampling: Sampling | None) -> Prompt:
    prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
    sampling = prompt.sampling or sampling or Sampling()
    temperature = 1.0 if sampling.temperature is None else sampling.temperature
    own = msgspec.structs.replace(sampling, temperature=temperature, logprobs=sampling.logprobs or 1)
    return msgspec.structs.replace(prompt, sampling=own)


def _words_of(prompt: Prompt) -> str:
    """What a prompt says, for the question in which answers are compared."""
    content = prompt.content
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("content", "")) for part in content if not isinstance(part, int))


def _mean_logprob(response: Response) -> float | None:
    """The length-normalised log-probability of an answer; None where the server does not tell."""
    if response.logprobs is None:
        return None
    known = [logprob for logprob in response.logprobs.token_logprobs if logprob is not None]
    return sum(known) / len(known) if known else None
