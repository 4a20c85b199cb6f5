"""What a simulated engine works on, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence as ListLike
from enum import Enum
from typing import Any

import msgspec

from aurora_pool.testing.kv_cache import Key


class State(Enum):
    """Where a sequence stands: it waits again when it has been preempted."""

    NEW = 0
    WAITING = 1
    PREFILLING = 2
    DECODING = 3
    ENDED = 4


class Sequence:
    """One answer in the making: ``length`` tokens long, to a prompt of ``prompt_tokens``, emitted as ``interval`` says.

    With an interval of N there is an emission for the first token, then one every N tokens, then one for the end, as
    vLLM's ``stream_interval`` has it; with None only the end is emitted. ``keys`` name the whole blocks of its prompt
    that others may share (see :func:`~aurora_pool.testing.kv_cache.block_keys`). ``key`` is the caller's own.

    >>> Sequence(200, prompt_tokens=50, interval=1_000_000, key="prompt 7").generated
    0
    """

    __slots__ = (
        "begun", "blocks", "cached_tokens", "computed", "due", "first_token_at", "generated", "interval", "key",
        "keyed", "keys", "length", "mark", "prompt_tokens", "started_at", "state", "submitted_at",
    )  # fmt: skip

    def __init__(
        self,
        length: int,
        *,
        prompt_tokens: int = 1,
        keys: ListLike[Key] = (),
        interval: int | None = None,
        key: Any = None,
    ) -> None:
        if length < 1 or prompt_tokens < 1 or (interval is not None and interval < 1):
            raise ValueError(
                "expected a length, a prompt and an interval of at least 1 token, "
                f"got {length}, {prompt_tokens} and {interval}"
            )
        self.length = length
        self.prompt_tokens = prompt_tokens
        self.keys = keys
        self.interval = interval
        self.key = key
        self.generated = 0
        """Tokens as of its last emission; :meth:`Engine.generated` tells those of this moment."""
        self.cached_tokens = 0
        """Tokens of its prompt that were in the cache when it was first admitted."""
        self.submitted_at = 0.0
        self.started_at = math.nan
        """When it was first admitted, in the engine's seconds; nan while it waits."""
        self.first_token_at = math.nan
        # The rest is the engine's own.
        self.state = State.NEW
        self.computed = 0
        """While it prefills: how many of its tokens have been computed or will be by this step."""
        self.blocks = 0
        """While it prefills: how many blocks it holds."""
        self.keyed = 0
        """How many blocks it holds by their keys: the first ones of its prompt."""
        self.begun = 0
        """While it decodes: its tokens are the number of steps since this one."""
        self.due = length if interval is None else 1
        """With how many tokens its next emission comes."""
        self.mark = 0
        """While it decodes: the step with which its next emission comes."""


class Emission(msgspec.Struct, frozen=True, gc=False):
    """A sequence has ``tokens`` tokens at time ``at`` (seconds); with ``finished``, it holds no slot any more."""

    at: float
    sequence: Sequence
    tokens: int
    finished: bool
