"""How large a reply may be: what was asked says how much can come of it. Generous: they stop what never ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

UNASKED_TOKENS = 1 << 18
"""Tokens that are assumed per answer where the request sets no ``max_tokens``."""
PER_TOKEN_TEXT = 16
"""Characters that a token has at most in the mean over all answers of a reply."""
PER_TOKEN_LONGEST = 256
"""Characters that a token of one answer has at most in the mean; vocabularies' longest have 128 to 512."""
PER_TOKEN_EVENT = 1024
"""Bytes of an event with one token, where a server sends such."""
PER_LOGPROB = 256
"""Bytes of one alternative at one position."""
PER_ID = 16
SPARE = 1 << 20
"""Bytes that any reply may have."""
SPARE_TEXT = 1 << 23
PER_CHOICE = 4096

ERROR_BODY = 1 << 18
"""Bytes of an error reply that are read."""
OTHER_BODY = 1 << 24
"""Bytes of any other reply: models, metrics, token ids."""


class Bounds(msgspec.Struct, frozen=True):
    """The most that a reply to one request may have.

    ``longest`` and ``characters`` are characters of one text and of all; ``event``, ``body`` and ``stream`` bytes of
    one event, of a reply that is not streamed, and of one that is; ``tokens`` what one answer may have.
    """

    tokens: int
    longest: int
    characters: int
    event: int
    body: int
    stream: int


class Asked:
    """What a request asks for with these fields, as far as it makes its reply larger.

    >>> Asked({}).bounds(choices=8, max_tokens=64, prompt_characters=1000).longest
    82920
    """

    __slots__ = ("_per_character", "_per_token", "_tokens", "echoes")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        own = [fields[name] for name in ("max_tokens", "max_completion_tokens") if type(fields.get(name)) is int]
        self._tokens = max(own, default=0)
        asks = fields.get("echo") or fields.get("return_token_ids")
        self.echoes = bool(asks) or fields.get("prompt_logprobs") is not None
        """Whether the reply holds what the prompts say, or one entry for each of their tokens."""
        self._per_token = PER_ID + PER_LOGPROB * _alternatives(fields, "logprobs", "top_logprobs")
        self._per_character = 8 * (2 + PER_LOGPROB // 8 * _alternatives(fields, "prompt_logprobs"))

    def bounds(self, choices: int, max_tokens: int, prompt_characters: int) -> Bounds:
        """Work out the bounds of a reply with that number of choices; ``max_tokens`` is 0 where none are set.

        How many characters the prompts have matters only to one that :attr:`echoes` them.
        """
        tokens = max(max_tokens, self._tokens) or UNASKED_TOKENS
        prompt = prompt_characters * self._per_character
        longest = (1 << 16) + PER_TOKEN_LONGEST * tokens
        one = PER_CHOICE + tokens * (4 * PER_TOKEN_TEXT + self._per_token)
        return Bounds(
            tokens,
            longest + prompt_characters,
            SPARE_TEXT + PER_TOKEN_TEXT * choices * tokens + prompt_characters,
            SPARE + max(one, longest) + prompt,
            SPARE + choices * one + longest + prompt,
            SPARE + choices * (PER_CHOICE + tokens * (PER_TOKEN_EVENT + self._per_token)) + prompt,
        )


def _alternatives(fields: Mapping[str, Any], *names: str) -> int:
    """How many alternatives per position the request asks for, the token itself included."""
    asked = [fields[name] for name in names if type(fields.get(name)) in (int, bool) and fields[name] is not False]
    most = max(asked, default=-2)
    return 0 if most == -2 else 2 + (most if most >= 0 else 1 << 18)  # -1 is the whole vocabulary


UNBOUNDED = Asked({}).bounds(1024, 0, 1 << 24)

_MOST_CHOICES = 1 << 11
"""The longest list that servers take."""


class _Foreign(msgspec.Struct, gc=False):
    prompt: Any = None
    input: Any = None
    n: Any = 1
    max_tokens: Any = None
    max_completion_tokens: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    prompt_logprobs: Any = None


_decode_foreign = msgspec.json.Decoder(_Foreign).decode


def bounds_of(body: bytes | None) -> Bounds:
    """Work out the bounds of a reply to a request that somebody else wrote, of whatever kind it is.

    >>> bounds_of(b'{"prompt": ["a", "b"], "max_tokens": 16}') == Asked({}).bounds(2, 16, 40)
    True
    """
    body = body or b""
    try:
        asked = _decode_foreign(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        asked = _Foreign()
    listed = asked.input if asked.prompt is None else asked.prompt
    prompts = len(listed) if isinstance(listed, list) and listed and not isinstance(listed[0], int) else 1
    samples = asked.n if type(asked.n) is int and asked.n > 0 else 1
    return Asked(msgspec.structs.asdict(asked)).bounds(min(prompts * samples, _MOST_CHOICES), 0, len(body))
