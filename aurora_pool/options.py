"""Options of a pool beyond its everyday arguments: times, prompts, connections, and the observer of events."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from aurora_pool.arguments import (
    check_amount,
    check_callable,
    check_instance,
    check_one_of,
    check_seconds,
    check_whole,
)
from aurora_pool.errors import ConfigError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import Response

__all__ = ["ConnectionOptions", "HostedOptions", "Observer", "OnTooLong", "PromptFormat", "PromptOptions", "Timeouts"]

PromptFormat: TypeAlias = Literal["auto", "chat", "raw"]
"""Whether text goes into the model's chat template: where it has one, always, or never."""

OnTooLong: TypeAlias = Literal["error", "truncate", "split"]
"""What becomes of a prompt that is longer than the context."""

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the pool waits for what, in seconds. A long queue at a server is none of these.

    >>> Timeouts(stall=120, patience=600).stall
    120

    - ``connect`` (5): for a TCP connection. A server in the same network accepts within milliseconds; it is the machine
      that is gone, with nobody to refuse, that takes this long.
    - ``probe`` (5): for a reply to a probe or to a load check. A busy vLLM API process has been seen to block for
      0.9 s; one that needs more than 5 is no use.
    - ``stall`` (30): for an agent that holds prompts to show any activity: a byte of an answer, or a counter in its
      metrics that moves. The first request after a server's start has been seen to take 16 s. An agent without metrics
      is sent a tiny request then: it may send nothing for as long as it answers that, and else for ten times as long:
      it may be too busy to answer.
    - ``patience`` (60): for any agent to come into service while prompts wait and none is. A vLLM server that restarts
      a small model needs 30 to 40 s; set it higher where servers load large ones.

    How long one prompt may take in all is ``VLLMPool(timeout=...)``, which has no default. Raises :class:`ConfigError`
    for anything but a number above 0.
    """

    connect: float = 5.0
    probe: float = 5.0
    stall: float = 30.0
    patience: float = 60.0

    def __post_init__(self) -> None:
        check_seconds(optional=False, **{one.name: getattr(self, one.name) for one in fields(self)})


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How prompts become requests.

    >>> PromptOptions(prompt_format="raw", on_too_long="truncate").stream
    True

    - ``prompt_format``: ``"chat"`` puts text into the model's chat template, so that a list request carries exactly the
      tokens that a chat request would; ``"raw"`` sends it unchanged; ``"auto"`` is chat where the model has a template.
      Token ids are always sent unchanged.
    - ``on_too_long``: what becomes of a prompt longer than the context: ``"error"`` is a failed response,
      ``"truncate"`` keeps its end, ``"split"`` answers it in parts and joins the answers.
    - ``stream``: take the answers of a list request one by one; False waits for whole lists.

    Raises :class:`ConfigError` for any other word.
    """

    prompt_format: PromptFormat = "auto"
    on_too_long: OnTooLong = "error"
    stream: bool = True

    def __post_init__(self) -> None:
        check_one_of("prompt_format", self.prompt_format, get_args(PromptFormat))
        check_one_of("on_too_long", self.on_too_long, get_args(OnTooLong))
        check_instance("stream", self.stream, bool, optional=False)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What every connection to an agent needs; the tags of a hostfile line add to it and win.

    >>> options = ConnectionOptions(headers={"X-Team": "blue"}, ca_file="/etc/ssl/lab-ca.pem")

    - ``headers``: sent with every request. A key belongs into an environment variable, named by ``api_key_env``.
    - ``ca_file``: a PEM file of certificate authorities to trust instead of the system's, for https agents.
    - ``client_cert``, ``client_key``: PEM files by which this client proves who it is; the key may be in the first.
    - ``verify``: False accepts any certificate, with a warning: an attacker in between can then read and change it all.

    Raises :class:`ConfigError` for a header that HTTP can't carry and for a key without its certificate; the pool does
    for a file that can't be read.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        check_instance("headers", self.headers, Mapping, optional=False)
        for name, value in self.headers.items():
            check_header(name, value)
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))
        check_instance("verify", self.verify, bool, optional=False)
        for name in ("ca_file", "client_cert", "client_key"):
            check_instance(name, getattr(self, name), str | Path)
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError("client_key: expected client_cert beside it")


@dataclass(frozen=True, slots=True)
class HostedOptions:
    """When hosted agents are asked, and what they may cost.

    >>> HostedOptions(spill_after=300, max_cost=5.0).spill_after
    300

    A hosted agent is an :class:`AgentEndpoint` with the tag ``hosted``.

    - ``spill_after`` (60): seconds without an own agent in service, or of waiting for one beyond what an answer takes,
      after which prompts go to hosted agents.
    - ``max_cost``: how much their answers may cost in all, in the currency of the prices; infinity sets no limit.
    - ``deadline``: when all should be answered, in seconds since 1970; hosted agents are asked if it would be missed.
    - ``drivers`` (1): how many pools, in processes of their own, share the hosted agents. Each keeps to its part of the
      requests and tokens of a minute, and of the requests at a time, 1 at least.
    - ``spent``: how much of ``max_cost`` was spent before.
    - ``on_draw``: is called, before anything is sent, with how much would count as spent if the process were killed.

    Raises :class:`ConfigError` for anything but a number above 0 (``drivers``: a whole one), or from 0 on for
    ``max_cost`` and ``spent``, and for an ``on_draw`` that can't be called.
    """

    spill_after: float = 60.0
    max_cost: float = math.inf
    deadline: float | None = None
    spent: float = 0.0
    on_draw: Callable[[float], None] | None = None
    drivers: int = 1

    def __post_init__(self) -> None:
        check_seconds(optional=False, spill_after=self.spill_after)
        check_seconds(deadline=self.deadline)
        check_amount(max_cost=self.max_cost, spent=self.spent)
        check_callable(on_draw=self.on_draw)
        check_whole(1, optional=False, drivers=self.drivers)


def check_header(name: object, value: object) -> None:
    """Raise :class:`ConfigError` for a header that HTTP can't carry. Its value may be a key, and is not shown."""
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise ConfigError(f"headers: expected a name such as 'X-Team', got {name!r}")
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f"headers: expected text without control characters as the value of {name!r}")


class Observer:
    """Is told what happens in a pool, as it happens. Subclass it and override what you need; keep the methods quick.

    A method that raises ends no call: the error is logged once, and the method is still called.

    >>> class Printer(Observer):
    ...     def agent_state(self, agent, endpoint, state, reason):
    ...         print(f"{endpoint} is {state}: {reason}")
    """

    def agent_state(self, agent: int, endpoint: AgentEndpoint, state: str, reason: str) -> None:
        """An agent's state changed; ``state`` is ``in service``, ``rate-limited``, ``out`` or ``removed``."""

    def request_sent(self, agent: int, prompts: int) -> None:
        """A request with ``prompts`` prompts left for an agent."""

    def prompt_done(self, response: Response) -> None:
        """A prompt has its result. ``response.agent_index`` counts within the pool or view that was asked."""

    def prompt_moved(self, agent: int, outcome: str) -> None:
        """A prompt left an agent unanswered and goes to another; ``outcome`` says why."""

    def prompt_hedged(self, slow_agent: int, agent: int) -> None:
        """A prompt that a slow or stalled agent holds was given to a second one as well."""

    def prompt_quarantined(self, agent: int) -> None:
        """A prompt was in flight on agents that died, and goes on apart from others."""
