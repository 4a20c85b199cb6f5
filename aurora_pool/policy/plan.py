"""What the dispatcher decides: plans for the runtime to carry out, and events for observers."""

from __future__ import annotations

import msgspec

from aurora_pool.errors import PoolError
from aurora_pool.messages import ErrorKind
from aurora_pool.policy.work import InFlightRequest, WorkItem


class Failure:
    """A prompt that ended without an answer."""

    __slots__ = ("agent", "error", "item", "kind")

    def __init__(self, item: WorkItem, kind: ErrorKind, error: str, agent: int | None) -> None:
        self.item = item
        self.kind = kind
        self.error = error
        self.agent = agent


class Plan(msgspec.Struct, eq=False):
    """What the pool should do now: send and close requests, probe agents, fail prompts.

    ``probe`` holds agents to be tried by a small request: they are out, on trial, or stalled without counters;
    ``check`` agents that hold prompts and have stopped sending; ``sample`` agents whose counters of running and waiting
    prompts the dispatcher needs.
    """

    send: list[InFlightRequest] = []
    close: list[InFlightRequest] = []
    fail: list[Failure] = []
    probe: list[int] = []
    check: list[int] = []
    sample: list[int] = []


NOTHING = Plan()
"""The plan with nothing to do."""


class PolicyEvents:
    """Receives what the dispatcher decides about agents and prompts; the pool passes it on to its observers."""

    def agent_state(self, agent: int, state: str, reason: str) -> None:
        """Record that an agent came into or went out of service, and why."""

    def prompt_moved(self, agent: int, outcome: str) -> None:
        """Record that a prompt left an agent unanswered."""

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        """Record that a prompt was given to a second agent because the first is slow or stalled."""

    def idle_timeout_seen(self, agent: int, seconds: float) -> None:
        """Record that a proxy in front of an agent cuts connections that are idle for this many seconds."""

    def prompt_quarantined(self, agent: int) -> None:
        """Record that a prompt may kill agents, and is tried apart from others."""


def describe(error: PoolError) -> str:
    """Write an error for a user: its class says what happened where the text alone does not."""
    return str(error) or type(error).__name__
