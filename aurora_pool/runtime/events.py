"""Passes what the policy decides about agents and prompts to the log and to the pool's observer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import Response
from aurora_pool.options import Observer
from aurora_pool.policy.plan import PolicyEvents
from aurora_pool.terminal import one_line

log = logging.getLogger("aurora_pool")


class Announcer(Observer):
    """Calls an observer. A method that raises fails no call: its error is logged once, and it is still called."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed: set[str] = set()

    def agent_state(self, agent: int, endpoint: AgentEndpoint, state: str, reason: str) -> None:
        """Pass it on."""
        self._tell(self._observer.agent_state, agent, endpoint, state, reason)

    def request_sent(self, agent: int, prompts: int) -> None:
        """Pass it on."""
        self._tell(self._observer.request_sent, agent, prompts)

    def prompt_done(self, response: Response) -> None:
        """Pass it on."""
        self._tell(self._observer.prompt_done, response)

    def prompt_moved(self, agent: int, outcome: str) -> None:
        """Pass it on."""
        self._tell(self._observer.prompt_moved, agent, outcome)

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        """Pass it on."""
        self._tell(self._observer.prompt_hedged, slow_agent, agent)

    def prompt_quarantined(self, agent: int) -> None:
        """Pass it on."""
        self._tell(self._observer.prompt_quarantined, agent)

    def _tell(self, method: Callable[..., None], *event: Any) -> None:
        try:
            method(*event)
        except Exception:
            if method.__name__ not in self._failed:
                self._failed.add(method.__name__)
                log.exception("the observer's %s has raised; it will still be called", method.__name__)


class EventRelay(PolicyEvents):
    """Logs one line per change of an agent's state, and passes everything on to the observer."""

    def __init__(self, endpoints: Sequence[AgentEndpoint], observer: Observer) -> None:
        self._endpoints = endpoints
        self._observer = observer

    def agent_state(self, agent: int, state: str, reason: str) -> None:
        """Log it as well; an agent that goes out is a warning."""
        level = logging.INFO if state == "in service" else logging.WARNING
        log.log(level, "%s is %s (%s)", self._endpoints[agent], state, one_line(reason))
        self._observer.agent_state(agent, self._endpoints[agent], state, reason)

    def prompt_moved(self, agent: int, outcome: str) -> None:
        """Pass it on."""
        self._observer.prompt_moved(agent, outcome)

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        """Pass it on."""
        self._observer.prompt_hedged(slow_agent, agent)

    def idle_timeout_seen(self, agent: int, seconds: float) -> None:
        """Log it: the pool adapts, but the proxy's operator may want to know."""
        log.warning(
            "%s: connections on which nothing has come for %.0f s are cut, by a proxy it seems (nginx has "
            "proxy_read_timeout for that); longer answers are streamed in smaller pieces from now on",
            self._endpoints[agent],
            seconds,
        )

    def prompt_quarantined(self, agent: int) -> None:
        """Pass it on."""
        self._observer.prompt_quarantined(agent)
