"""Probabilities instead of texts: which of some answers a model would give, and how likely it finds a text."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aurora_pool.arguments import check_each_instance, check_many
from aurora_pool.errors import BadReply, ConfigError, TransportError
from aurora_pool.messages import AnyPrompt, ErrorKind, Prompt, Response, Sampling
from aurora_pool.patterns.ahead import ahead
from aurora_pool.patterns.growing import Work, grow
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.pool_options import check_prompts
from aurora_pool.prompts.content import check_sampling

__all__ = ["Choice", "Score", "choose", "score"]

MOST_LOGPROBS = 20  # what a server allows by default (--max-logprobs)
_NEXT = Sampling(
    temperature=0.0,
    logprobs=MOST_LOGPROBS,
    return_token_ids=True,
    # Different tokens may have the same text; their ids are never the same.
    extra={"return_tokens_as_token_ids": True},
)
_SCORED = Sampling(temperature=0.0, prompt_logprobs=1)
_ANCHOR = "\n"
_TRIES = 3
"""How often agents that answer are asked for the tokens of the choices."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which answer a model would give to one prompt.

    ``logprobs`` holds each answer's natural log-probability as the server tells it; ``probabilities`` the same relative
    to each other: they add up to 1. ``answer`` is the most probable one. ``success`` is False, and the rest empty, if
    the prompt got no answer: see ``error`` and ``error_kind``.
    """

    success: bool
    answer: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    logprobs: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    error_kind: ErrorKind | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model finds a text: ``logprob`` is the sum over its tokens, ``tokens`` how many were counted.

    The first token of a text has no probability unless the tokenizer puts a begin-of-text token before it.
    ``success`` is False if the text was not scored: see ``error`` and ``error_kind``.
    """

    success: bool
    logprob: float = 0.0
    tokens: int = 0
    error: str | None = None
    error_kind: ErrorKind | None = None

    @property
    def perplexity(self) -> float:
        """The mean number of equally likely tokens that each token was chosen from; infinite for no tokens."""
        return math.exp(-self.logprob / self.tokens) if self.tokens else math.inf


async def choose(pool: TextPool, prompts: Iterable[AnyPrompt], choices: Sequence[str]) -> list[Choice]:
    r"""Find how probable each of some answers is as the continuation of each prompt.

    ::

        for verdict in await choose(pool, [f"{claim}\nTrue or false?" for claim in claims], [" True", " False"]):
            print(verdict.answer, verdict.probabilities[" True"])

    Nothing is generated but one token per prompt: an answer that is one token, and among the 20 most likely, has its
    probability from there, which works from the server's prefix cache. Any other answer is appended to the prompt's
    tokens and scored there, token by token, in a request of its own. An answer stands for every text that begins with
    it. Leading spaces matter: after ``"...answer:"`` a model says ``" Yes"``, in a chat ``"Yes"``. Of a prompt's own
    sampling, only the ``extra`` fields count (``chat_template_kwargs``, to keep a model from thinking first).

    A prompt whose agent leaves out the log-probabilities, or tells none that can be read, fails, and so do all where no
    agent is left.

    Raises :class:`~aurora_pool.errors.ConfigError` for fewer than two choices, an empty one, or two that are equal or
    have equal tokens; :class:`~aurora_pool.errors.ServerError`, :class:`~aurora_pool.errors.BadReply` or
    :class:`~aurora_pool.errors.TransportError` where agents answer, but can't tell the tokens of a text.
    """
    check_prompts(prompts, asynchronous=False)
    check_many(choices=choices)
    check_each_instance("choices", choices, str)
    if len(choices) < 2 or not all(choices) or len(set(choices)) < len(choices):
        raise ConfigError(f"expected two or more different choices, none of them empty: got {list(choices)!r}")
    tokens = await _tokens_once_served(pool, choices)
    if isinstance(tokens, Response):
        return [_chosen(choices, {}, tokens) for _ in prompts]
    found: list[dict[str, float]] = []
    failed: dict[int, Response] = {}

    def first() -> Iterator[Work[tuple[int, str | None]]]:
        for number, prompt in enumerate(prompts):
            found.append({})
            yield (number, None), _asking_for_next(prompt)

    def follow(key: tuple[int, str | None], response: Response) -> list[Work[tuple[int, str | None]]]:
        try:
            return list(read(*key, response))
        except BadReply as error:
            response = Response(False, "", str(error), response.agent_index, "exhausted")
        failed.setdefault(key[0], response)
        return []

    def read(number: int, choice: str | None, response: Response) -> Iterable[Work[tuple[int, str | None]]]:
        if not response.success:
            failed.setdefault(number, response)
            return []
        if choice is not None:
            found[number][choice] = sum(_logprobs_of_last(response, tokens[choice]))
            return []
        found[number] = _among_next(response, tokens)
        unlikely = [choice for choice in choices if choice not in found[number]]
        if unlikely and response.prompt_token_ids is None:
            raise BadReply(f"agent {response.agent_index} did not tell the prompt_token_ids that it was asked for")
        before = response.prompt_token_ids or []
        return [((number, choice), Prompt([*before, *tokens[choice]], _SCORED, max_tokens=1)) for choice in unlikely]

    await grow(pool, first(), follow)
    return [_chosen(choices, logprobs, failed.get(number)) for number, logprobs in enumerate(found)]


async def score(pool: TextPool, texts: Iterable[str | Sequence[int]]) -> list[Score]:
    """Find how likely the model finds each text: the log-probability of its tokens, each given those before it.

    ::

        likelihoods = [s.logprob for s in await score(pool, ["Paris is in France.", "Paris is in Peru."])]

    A text is scored unchanged, without a chat template, and may be given as token ids. Scoring reads no prefix cache
    and costs a server much memory: the pool sends such prompts in small lists.

    A text whose agent leaves out the log-probabilities, or tells none that can be read, fails, and so do all where no
    agent is left.

    Raises :class:`~aurora_pool.errors.ConfigError` for one text instead of several;
    :class:`~aurora_pool.errors.ServerError` or :class:`~aurora_pool.errors.BadReply` where agents answer, but can't
    tell the tokens of a text.
    """
    check_many(texts=texts)
    scores: list[Score] = []
    places: list[tuple[int, str | Sequence[int]]] = []

    async def tokens_of(text: str | Sequence[int]) -> str | Sequence[int]:
        try:
            return await pool.tokenize(text) if isinstance(text, str) else text
        except TransportError:
            return text  # it waits for an agent in the call, as any prompt does

    async def feed() -> AsyncIterator[Prompt]:
        async with aclosing(ahead(texts, tokens_of)) as tokenized:
            async for ids in tokenized:
                scores.append(Score(False, error="the text has no tokens", error_kind="rejected"))
                if ids:
                    places.append((len(scores) - 1, ids))
                    yield Prompt(ids, _SCORED, max_tokens=1, format="raw")

    async with aclosing(pool.iter_responses(feed())) as responses:
        async for index, response in responses:
            place, ids = places[index]
            if not response.success:
                scores[place] = Score(False, error=response.error, error_kind=response.error_kind)
                continue
            try:
                known = _logprobs_of_last(response, await pool.tokenize(ids) if isinstance(ids, str) else ids)
            except (BadReply, TransportError) as error:
                scores[place] = Score(False, error=str(error), error_kind="exhausted")
            else:
                scores[place] = Score(True, sum(known), len(known))
    return scores


async def _tokens_once_served(pool: TextPool, choices: Sequence[str]) -> dict[str, list[int]] | Response:
    """Tokenize each choice; where no agent can be reached, give what became of a prompt that has waited for one."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(TransportError):
            return await _tokens_of_choices(pool, choices)
        waited = await pool.ask("Hi", max_tokens=1)
        if waited.error_kind == "no_agents":
            return waited
    return await _tokens_of_choices(pool, choices)


async def _tokens_of_choices(pool: TextPool, choices: Sequence[str]) -> dict[str, list[int]]:
    """Tokenize each choice within its text.

    Some tokenizers put a space before every text; behind an anchor there is none. Where anchor and choice share a
    token, the choice's own tokens are taken.
    """
    anchor = await pool.tokenize(_ANCHOR, add_special_tokens=False)
    tokens = {}
    for choice in choices:
        anchored = await pool.tokenize(_ANCHOR + choice, add_special_tokens=False)
        begins = anchored[: len(anchor)] == anchor
        tokens[choice] = anchored[len(anchor) :] if begins else await pool.tokenize(choice, add_special_tokens=False)
    if len({tuple(ids) for ids in tokens.values()}) < len(choices):
        raise ConfigError(f"the model has the same tokens for two of the choices {list(choices)!r}")
    return tokens


def _asking_for_next(prompt: AnyPrompt) -> Prompt:
    if not isinstance(prompt, Prompt):
        return Prompt(prompt, _NEXT, max_tokens=1)
    sampling = _NEXT
    if prompt.sampling is not None:
        check_sampling(prompt.sampling)
        sampling = msgspec.structs.replace(_NEXT, extra={**prompt.sampling.extra, **_NEXT.extra})
    return msgspec.structs.replace(prompt, sampling=sampling, max_tokens=1)


def _among_next(response: Response, tokens: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Pick the choices of one token from the most likely next tokens."""
    top = response.logprobs.top[0] if response.logprobs and response.logprobs.top else None
    likely = top or {}
    names = {choice: f"token_id:{ids[0]}" for choice, ids in tokens.items() if len(ids) == 1}
    return {choice: likely[name] for choice, name in names.items() if name in likely}


def _logprobs_of_last(response: Response, ids: Sequence[int]) -> list[float]:
    """The log-probabilities of a prompt's last tokens; the first token of all has none."""
    entries: Sequence[Any] = (response.prompt_logprobs or [])[-len(ids) :]
    if len(entries) == len(ids):
        told = [(token, entry) for token, entry in zip(ids, entries, strict=True) if entry is not None]
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return [float(entry[str(token)]["logprob"]) for token, entry in told]
    raise BadReply(f"agent {response.agent_index} did not tell the prompt_logprobs that it was asked for")


def _chosen(choices: Sequence[str], logprobs: Mapping[str, float], failed: Response | None) -> Choice:
    if failed is not None:
        return Choice(False, error=failed.error, error_kind=failed.error_kind)
    ordered = {choice: logprobs[choice] for choice in choices}
    answer = max(ordered, key=ordered.__getitem__)
    weights = {choice: math.exp(value - ordered[answer]) for choice, value in ordered.items()}
    total = sum(weights.values())
    return Choice(True, answer, {choice: weight / total for choice, weight in weights.items()}, ordered)
