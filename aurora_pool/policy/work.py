"""What the dispatcher moves about: work items (prompts on their way), requests in flight, and plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aurora_pool.errors import PoolError
from aurora_pool.messages import ErrorKind

if TYPE_CHECKING:
    from aurora_pool.policy.queues import PromptQueue

LIST_LIMIT = 1024
"""vLLM's own limit on the prompts of one request, since 0.26."""
SUSPICIOUS_DEATHS = 2
"""A prompt that was in flight on this many agents when they died is quarantined."""


class WorkItem(msgspec.Struct, eq=False, gc=False):
    """One prompt on its way to exactly one result.

    ``batch`` says which items may share a list request (those with the same object), ``room`` how many tokens may be
    generated for it, ``limit`` how many prompts a request with it may have (1: it goes alone); ``work`` is the caller's
    own and never looked at. ``holders`` counts the agents that hold it: one, two while it is hedged, none while it
    waits. Of a ``committed`` one the caller has bytes of the answer already: no other agent may answer it any more.
    ``cohort`` is the same for those that failed together: they go together again, and apart from others.
    ``doubted`` tells that an agent has rejected it whose word was not taken for it. ``sends`` counts requests,
    ``attempts`` those that failed for an agent's own reasons, ``deaths`` the agents that died while they held it.
    ``started_at`` is when it showed its first token, -1 before. ``prompt_tokens`` is about how many tokens the
    prompt has; 0 where nobody knows.

    The garbage collector does not look at items (``gc=False``): with a million of them alive, looking costs more than
    all the rest of the dispatch. So whoever keeps items lets go of them at the end: :meth:`Dispatcher.close` does.
    """

    queue: PromptQueue
    index: int
    kind: Any
    work: Any
    room: int = 0
    limit: int = LIST_LIMIT
    holders: int = 0
    sends: int = 0
    attempts: int = 0
    deaths: int = 0
    avoid: int = -1
    done: bool = False
    hedged: bool = False
    committed: bool = False
    doubted: bool = False
    cohort: object = None
    first_sent: float = -1.0
    started_at: float = -1.0
    prompt_tokens: float = 0.0
    request: InFlightRequest | None = None
    second_request: InFlightRequest | None = None

    @property
    def suspected(self) -> bool:
        """Whether it may be what kills agents, and shares them with other quarantined prompts only."""
        return self.deaths >= SUSPICIOUS_DEATHS

    @property
    def isolated(self) -> bool:
        """Whether an agent died that held only quarantined prompts, it among them, so that it now runs alone."""
        return self.deaths > SUSPICIOUS_DEATHS


class InFlightRequest:
    """One HTTP request that the pool is to make: to which agent, with which prompts, in which order.

    It is assigned when it is made, and sent when it begins to be written: ``sent_at`` is None until then, for a request
    that waits on this side for its turn or a connection is no work of the agent's, and none of its clocks runs.

    A slot of ``items`` becomes None when its prompt is released; ``open`` counts those that are not. ``live`` counts
    the open slots whose prompt nobody has answered yet: at 0 the request serves no one. ``started`` counts the open
    slots that have shown a first token.
    """

    __slots__ = ("agent", "answers", "closed", "items", "live", "open", "sent_at", "started")

    def __init__(self, agent: int, items: Sequence[WorkItem]) -> None:
        self.agent = agent
        self.items: list[WorkItem | None] = [*items]
        self.live = self.open = len(items)
        self.started = 0
        self.sent_at: float | None = None
        self.answers = False
        """Whether any of its prompts has shown a sign."""
        self.closed = False

    def unreleased(self) -> list[WorkItem]:
        """The items whose part of the reply has not come."""
        return [item for item in self.items if item is not None]


class Failure:
    """A item's end without an answer."""

    __slots__ = ("agent", "error", "item", "kind")

    def __init__(self, item: WorkItem, kind: ErrorKind, error: str, agent: int | None) -> None:
        self.item = item
        self.kind = kind
        self.error = error
        self.agent = agent


class Plan(msgspec.Struct, eq=False):
    """What the pool is to do now: requests to send and to close, agents to probe, prompts that ended unanswered.

    ``probe`` holds agents that are out and due for a trial; ``check`` agents that hold prompts but have fallen silent;
    ``sample`` agents whose counters of running and waiting prompts the dispatcher would like to know.
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
        """Record that a prompt was given to a second agent because the first is slow or silent."""

    def silence_cut(self, agent: int, seconds: float) -> None:
        """Record that connections to an agent are cut, by a proxy before it, when nothing has come for so long."""

    def prompt_quarantined(self, agent: int) -> None:
        """Record that a prompt is under suspicion of killing agents and goes on apart from others."""


def describe(error: PoolError) -> str:
    """Write an error for a user: its class says what happened where the text alone does not."""
    return str(error) or type(error).__name__
