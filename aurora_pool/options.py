"""What a pool can be told beyond its endpoints and model: times, and who is told of events."""

from __future__ import annotations

from dataclasses import dataclass

from aurora_pool.errors import ConfigError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import Response


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the pool waits for what, in seconds. A long queue at a server is none of these.

    - ``connect`` (5): for a TCP connection. A server in the same network accepts within milliseconds; it is the machine
      that is gone, with nobody to refuse, that takes this long.
    - ``probe`` (5): for a reply to a probe or to a look at the metrics. A busy vLLM API process has been seen to
      block for 0.9 s; one that needs more than 5 is no use.
    - ``silence`` (30): for an agent that holds prompts to show any sign of work: a byte of an answer, or a counter in
      its metrics that moves. The first request after a server's start has been seen to take 16 s. An agent without
      metrics has ten times as long, for it may be merely busy.
    - ``patience`` (60): for any agent to come into service while prompts wait and none is. A vLLM server that restarts
      a small model needs 30 to 40 s; set it higher where servers load large ones.

    How long one prompt may take in all is ``VLLMPool(timeout=...)``, which has no default.
    """

    connect: float = 5.0
    probe: float = 5.0
    silence: float = 30.0
    patience: float = 60.0

    def __post_init__(self) -> None:
        for name in ("connect", "probe", "silence", "patience"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"Timeouts({name}=...): expected seconds above 0, got {getattr(self, name)!r}")


class Observer:
    """Is told what happens in a pool, as it happens. Subclass it and override what you need; keep the methods quick.

    A method that raises ends no call: the error is logged once, and the method goes on being called.

    >>> class Printer(Observer):
    ...     def agent_state(self, agent, endpoint, state, reason):
    ...         print(f"{endpoint} is {state}: {reason}")
    """

    def agent_state(self, agent: int, endpoint: AgentEndpoint, state: str, reason: str) -> None:
        """An agent went out of service or came back; ``state`` is ``in service``, ``out`` or ``probing``."""

    def request_sent(self, agent: int, prompts: int) -> None:
        """A request with so many prompts left for an agent."""

    def prompt_done(self, response: Response) -> None:
        """A prompt has its result. ``response.agent_index`` counts within the pool or view that was asked."""

    def prompt_moved(self, agent: int, outcome: str) -> None:
        """A prompt left an agent unanswered and goes to another; ``outcome`` says why."""

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        """A prompt that a slow or silent agent holds was given to a second one as well."""

    def prompt_quarantined(self, agent: int) -> None:
        """A prompt was in flight on agents that died, and goes on apart from others."""
