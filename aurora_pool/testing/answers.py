"""What a simulated model says: deterministic texts, decided before the first token is out.

A text follows from the prompt's token ids, the sample number and, above temperature 0, the seed: never from the agent,
the list it stood in, or the time.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from hashlib import blake2b, shake_128
from statistics import NormalDist

import msgspec

from aurora_pool.testing import tokenizer
from aurora_pool.testing.constraints import Constraint
from aurora_pool.testing.options import Options
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.prompts import PromptTokens
from aurora_pool.testing.schema import example_of

END = tokenizer.SPECIAL_IDS["<|im_end|>"]
THINK = tokenizer.SPECIAL_IDS["<think>"]
END_OF_THINKING = tokenizer.SPECIAL_IDS["</think>"]

_NORMAL = NormalDist()
_FULL_STOP = ord(".")
_WORDS = tuple(
    _FULL_STOP if number % 16 == 15 else tokenizer.WORD_IDS[number % len(tokenizer.WORD_IDS)] for number in range(256)
)


class Answer(msgspec.Struct):
    """One answer, whole: ``token_ids`` counts what the engine generates, an end token included.

    ``text`` is what of it is shown: a stop string cuts it.
    """

    token_ids: list[int]
    text: str
    finish_reason: str
    stop_reason: str | int | None = None


def make_answer(
    profile: AgentProfile,
    options: Options,
    prompt: PromptTokens,
    *,
    sample: int = 0,
    asked: str | None = None,
) -> Answer:
    """Decide an answer to a prompt; ``asked`` is what a ``reply`` function is given instead of the prompt's text."""
    token_budget = prompt.token_budget
    digest = fingerprint(prompt.ids, options.sample_seed, sample)
    if options.constraint is not None:
        ids = _tokens_of(_constrained(options.constraint, int.from_bytes(digest[:4], "big")))
    elif isinstance(profile.reply, str):
        ids = _tokens_of(profile.reply)
    elif profile.reply is not None:
        ids = _tokens_of(profile.reply(prompt.shown() if asked is None else asked))
    else:
        ids = _natural(profile, options, digest, token_budget)
    finish_reason: str = "stop"
    stop_reason: str | int | None = None
    if len(ids) > token_budget:
        del ids[token_budget:]
        finish_reason = "length"
    text = tokenizer.decode(ids, skip_special=options.skip_special)
    if options.stop or options.stop_token_ids:
        cut = _cut(options, ids)
        if cut is not None:
            ids, text, stop_reason = cut
            finish_reason = "stop"
    return Answer(ids, text, finish_reason, stop_reason)


def _tokens_of(text: str) -> list[int]:
    return [*tokenizer.encode(text), END]


def _natural(profile: AgentProfile, options: Options, digest: bytes, token_budget: int) -> list[int]:
    """Make an answer of common words, at most a little longer than the budget."""
    if options.ignore_eos:
        return make_words(digest, token_budget + 1)
    length = natural_length(profile, int.from_bytes(digest[:8], "big"))
    ids = make_words(digest, min(max(length - 1, options.min_tokens), token_budget))
    if profile.reasoning and len(ids) > 3:
        ids[0] = THINK
        ids[length // 3 : length // 3 + 1] = [END_OF_THINKING]
    ids.append(END)
    return ids


def fingerprint(prompt_ids: Sequence[int], seed: int | None, sample: int) -> bytes:
    """Hash what an answer depends on.

    >>> fingerprint([1, 2], None, 0) == fingerprint([1, 2], 7, 0)
    False
    """
    digest = blake2b(array("q", prompt_ids).tobytes(), digest_size=16)
    digest.update(f"{seed}/{sample}".encode())
    return digest.digest()


def natural_length(profile: AgentProfile, number: int) -> int:
    """Draw a length in tokens from the profile's lognormal distribution by a 64-bit number."""
    chance = ((number >> 11) + 0.5) / (1 << 53)
    length = profile.median_length * math.exp(profile.length_sigma * _NORMAL.inv_cdf(chance))
    return max(profile.shortest, min(profile.longest, round(length)))


def make_words(digest: bytes, count: int) -> list[int]:
    """Make ``count`` tokens of common words and full stops."""
    return list(map(_WORDS.__getitem__, shake_128(digest).digest(count)))


def _constrained(constraint: Constraint, number: int) -> str:
    if isinstance(constraint, tuple):
        return constraint[number % len(constraint)]
    return json.dumps(example_of(constraint, number % 1000))


def _cut(options: Options, ids: list[int]) -> tuple[list[int], str, str | int] | None:
    """Cut an answer where its first stop string or stop token is complete: tokens, text, and what stopped it."""
    data = b""
    for count, token in enumerate(ids, start=1):
        if token in options.stop_token_ids and count > options.min_tokens:
            return ids[:count], tokenizer.decode(ids[: count - 1], skip_special=options.skip_special), token
        data += tokenizer.decode_bytes((token,), skip_special=options.skip_special)
        if count <= options.min_tokens or not options.stop:
            continue
        text = data.decode("utf-8", "replace")
        found = [(text.index(stop), stop) for stop in options.stop if stop in text]
        if found:
            at, stop = min(found)
            return ids[:count], text[: at + len(stop) if options.include_stop else at], stop
    return None
