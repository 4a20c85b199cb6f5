"""What can be wrong with a simulated agent, and scripts of when it goes wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from aurora_pool.testing.refusal import Refusal

__all__ = ["Action", "Fault", "Garble"]

Garble: TypeAlias = Literal["plain", "noise", "html"]
"""What a garbled server answers with status 200: the whole answer as plain JSON although a stream was asked for, bytes
that are nothing, or the page of a proxy."""

Action: TypeAlias = Literal[
    "refuse",
    "hang",
    "terminate",
    "die",
    "fail_engine",
    "fail",
    "drain",
    "sleep",
    "pause",
    "slow",
    "flap",
    "reject",
    "poison",
    "break_streams",
    "garble",
    "serve_model",
    "revive",
]
"""What a fault does: the name of a method of :class:`~aurora_pool.testing.agent.SimulatedAgent`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of a fault script: what happens to an agent, when, and for how long.

    >>> Fault(action="die", at=12.0, lasting=5.0).lasting
    5.0

    ``action`` is the name of a method of :class:`~aurora_pool.testing.agent.SimulatedAgent` and ``arguments`` its
    keywords. It happens ``at`` this many simulated seconds after the fleet's start, or once the agent has received
    ``after_prompts`` prompts, or when a prompt matches the regular expression ``on_prompt``; ``lasting`` seconds later
    the agent is revived.
    """

    action: Action
    at: float | None = None
    after_prompts: int | None = None
    on_prompt: str | None = None
    lasting: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"expected an action of {', '.join(get_args(Action))}; got {self.action!r}")
        if sum(when is not None for when in (self.at, self.after_prompts, self.on_prompt)) != 1:
            raise ValueError("expected exactly one of at, after_prompts and on_prompt")
        if self.on_prompt is not None:
            re.compile(self.on_prompt)


@dataclass(slots=True)
class Conditions:
    """What is wrong with a server at the moment; all of it is undone by making a new one."""

    hung: bool = False
    """Nothing is answered, nothing goes on: a stopped process, or one after SIGTERM with the engine killed."""
    draining: bool = False
    asleep: bool = False
    """As ``/metrics`` shows it: a paused engine looks awake."""
    engine_dead: bool = False
    failure: Refusal | None = None
    failure_rate: float = 1.0
    rejected: list[tuple[re.Pattern[str], str]] = field(default_factory=list)
    poisonous: list[re.Pattern[str]] = field(default_factory=list)
    stream_error: Refusal | None = None
    stream_error_after: int = 0
    garble: Garble | None = None
    model: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """What replies say besides."""

    def check_request(self, chance: random.Random) -> None:
        """Refuse a request for generation, if this server refuses it whatever it says."""
        if self.failure is not None and (self.failure_rate >= 1 or chance.random() < self.failure_rate):
            raise self.failure

    def check_prompt(self, text: str) -> None:
        """Refuse a prompt that matches a rejected pattern."""
        for pattern, message in self.rejected:
            if pattern.search(text):
                raise Refusal(400, message)

    def is_poison(self, text: str) -> bool:
        """Whether this prompt kills the server."""
        return any(pattern.search(text) for pattern in self.poisonous)
