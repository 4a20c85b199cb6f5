"""What a run log says: how fast a job was, when, and which agents did what."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec

from aurora_pool.errors import BadRecord, ConfigError
from aurora_pool.jobs.codec import Lines
from aurora_pool.jobs.files import compression_of
from aurora_pool.jobs.runlog import run_log_of

Values: TypeAlias = "array[float] | array[int]"

BINS = 120
"""Into how many spans of time a job is cut for its throughput over time."""

TAIL = 0.95
"""What comes after this share of the prompts is the tail."""


@dataclass(slots=True)
class AgentFigures:
    """One agent: prompts answered and failed, tokens generated, seconds in the log, and of them with prompts.

    ``spans`` holds when it had each prompt of the run that is being read. ``prefix_hit_share`` is what its server found
    in its prefix cache in the last run, of the tokens of its prompts; None where that is not known.
    """

    name: str
    prompts: int = 0
    failed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    latency_sum: float = 0.0
    prefix_hit_share: float | None = None
    spans: list[tuple[float, float]] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of the whole job."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def idle_share(self) -> float:
        """The share of the time without any prompt, from 0 to 1."""
        return max(0.0, 1 - self.busy_seconds / self.seconds) if self.seconds > 0 else 0.0

    @property
    def mean_latency(self) -> float:
        """Seconds from sending a prompt to its answer."""
        return self.latency_sum / self.prompts if self.prompts else 0.0


@dataclass(slots=True)
class History:
    """All runs of one output, one after the other; the time between them does not count. Times are seconds.

    ``ends`` holds when each prompt finished, ``latencies`` and ``lengths`` (tokens) what the answered ones took.
    ``failures`` counts failed prompts by cause, ``troubles`` failed requests by outcome.
    ``unreadable`` counts lines of the log that say nothing, ``missing`` records of the output that it does not have.
    """

    name: str
    model: str = ""
    runs: int = 0
    total: int = 0
    seconds: float = 0.0
    ending: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    attempts: int = 0
    moved: int = 0
    hedged: int = 0
    wasted_tokens: int = 0
    hosted_cost: float = 0.0
    """What hosted agents have cost."""
    agents: dict[str, AgentFigures] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    troubles: Counter[str] = field(default_factory=Counter)
    ends: array[float] = field(default_factory=lambda: array("d"))
    end_tokens: array[int] = field(default_factory=lambda: array("l"))
    latencies: array[float] = field(default_factory=lambda: array("d"))
    lengths: array[int] = field(default_factory=lambda: array("l"))
    agent_seconds: float = 0.0
    unreadable: int = 0
    missing: int = 0

    @property
    def done(self) -> int:
        """How many prompts finished."""
        return len(self.ends)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(self.failures.values())

    @property
    def prompts_per_second(self) -> float:
        """Prompts finished per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens generated per second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def idle_share(self) -> float:
        """The share of all agents' time without any prompt."""
        seconds = sum(agent.seconds for agent in self.agents.values())
        busy = sum(agent.busy_seconds for agent in self.agents.values())
        return max(0.0, 1 - busy / seconds) if seconds > 0 else 0.0

    @property
    def tail_share(self) -> float:
        """The share of the time that the last twentieth of the prompts took."""
        if not self.ends or self.seconds <= 0:
            return 0.0
        ordered = sorted(self.ends)
        return max(0.0, 1 - ordered[int(TAIL * (len(ordered) - 1))] / self.seconds)

    def cost(self, price: float, gpus_per_agent: float = 1.0) -> float:
        """What all agents cost for as long as the job ran, at ``price`` per GPU hour."""
        return self.agent_seconds / 3600 * gpus_per_agent * price

    def throughput(self) -> tuple[list[float], list[float]]:
        """Tokens per second over time: the middles of spans, in seconds, and the rate in each.

        A prompt's tokens count when it ends: how much of the time before it only waited in a server's queue is not
        known, and to spread them over that would show a job that is quick at first and slow at the end.
        """
        width = max(self.seconds / BINS, 0.001)
        tokens = [0] * BINS
        for end, count in zip(self.ends, self.end_tokens, strict=True):
            tokens[min(BINS - 1, int(end / width))] += count
        return [width * (number + 0.5) for number in range(BINS)], [count / width for count in tokens]


def percentile(values: Values, share: float) -> float:
    """The value that ``share`` of all stay below; 0 for none.

    >>> percentile(array("d", [4, 1, 3, 2]), 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[int(share * (len(ordered) - 1))] if ordered else 0.0


def covered(spans: list[tuple[float, float]]) -> float:
    """How much time spans cover together.

    >>> covered([(0, 2), (5, 6), (1, 3)])
    4.0
    """
    total = reached = 0.0
    for begin, end in sorted(spans):
        if end > reached:
            total += end - max(begin, reached)
            reached = end
    return total


def read_history(output: str | Path) -> History:
    """Read the run log of an output. What is damaged in it is left out, and counted.

    Raises :class:`~aurora_pool.errors.BadRecord` if there is none, or nothing in it.
    """
    if Path(output).is_dir():
        reason = "expected outputs of aurora-pool run, got a folder: name the shards in it; --claim writes no run log"
        raise BadRecord(reason, path=output)
    path = run_log_of(output)
    history = History(str(output))
    reader = _Reader(history)
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    reader.take(_decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    history.unreadable += bool(line.strip()) and not line.startswith(b'{"event":"demo"}')
    except OSError as error:
        raise BadRecord(f"the run log can't be read ({error.strerror})", path=str(path)) from error
    reader.end_run()
    if not history.runs:
        raise BadRecord("there is no run in it", path=str(path))
    history.missing = max(0, _records_in(Path(output)) - history.done)
    return history


def _records_in(output: Path) -> int:
    """How many lines an output has; 0 for one that can't be read."""
    try:
        return sum(map(len, Lines(output, compression_of(output)).batches()))
    except (OSError, ConfigError):
        return 0


# What a line may say. Anything else has been damaged: every number is within what a job can take.

_Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
_Prompt: TypeAlias = tuple[_Amount, _Count | None, _Amount, _Count | None, _Count | None, _Count, str]


class _Event(msgspec.Struct, tag_field="event"):
    pass


class _Start(_Event, tag="start"):
    names: list[str]
    model: str = ""
    total: _Count = 0


class _Agents(_Event, tag="agents"):
    t: _Amount
    names: list[str]
    failures: dict[str, _Count] = {}
    moved: _Count = 0
    hedged: _Count = 0
    wasted_tokens: _Count = 0
    prefix_hit_shares: list[Annotated[float, msgspec.Meta(ge=0, le=1)] | None] = []
    cost: _Amount = 0.0


class _End(_Event, tag="end"):
    t: _Amount
    ending: str = ""


_decode = msgspec.json.Decoder(_Start | _Agents | _End | _Prompt).decode


class _Reader:
    """Adds up a run log, line by line."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._names: list[str] = []
        self._offset = 0.0
        self._seconds = 0.0
        self._latest: _Agents | None = None

    def take(self, value: _Start | _Agents | _End | _Prompt) -> None:
        if isinstance(value, tuple):
            self._prompt(*value)
        elif isinstance(value, _Start):
            self.end_run()
            self._names = value.names
            self.history.model, self.history.total = value.model, value.total
            self.history.runs += 1
            self.history.ending = "killed"
        elif isinstance(value, _Agents):
            self._names = value.names
            self._seconds = max(self._seconds, value.t)
            self._latest = value
        else:
            self._seconds = max(self._seconds, value.t)
            self.history.ending = value.ending

    def end_run(self) -> None:
        """End one run; the time of one that was killed is that of its last line."""
        history = self.history
        present = set(self._names)
        for name in present:
            agent = self._agent(name)
            agent.seconds += self._seconds
            agent.busy_seconds += covered(agent.spans)
            agent.spans.clear()
        history.seconds += self._seconds
        history.agent_seconds += self._seconds * len(present)
        if self._latest is not None:
            history.moved += self._latest.moved
            history.hedged += self._latest.hedged
            history.wasted_tokens += self._latest.wasted_tokens
            history.hosted_cost += self._latest.cost
            history.troubles.update(self._latest.failures)
            for name, share in zip(self._latest.names, self._latest.prefix_hit_shares, strict=False):
                self._agent(name).prefix_hit_share = share
        self._offset = history.seconds
        self._names, self._seconds, self._latest = [], 0.0, None

    def _prompt(
        self,
        seconds: float,
        agent_index: int | None,
        latency: float,
        prompt_tokens: int | None,
        tokens: int | None,
        attempts: int,
        outcome: str,
    ) -> None:
        history = self.history
        self._seconds = max(self._seconds, seconds)
        history.ends.append(self._offset + seconds)
        history.end_tokens.append(tokens or 0)
        history.tokens += tokens or 0
        history.prompt_tokens += prompt_tokens or 0
        history.attempts += attempts
        agent = (
            None if agent_index is None or agent_index >= len(self._names) else self._agent(self._names[agent_index])
        )
        if agent is not None:
            agent.spans.append((max(0.0, seconds - latency), seconds))
        if outcome == "ok":
            history.latencies.append(latency)
            history.lengths.append(tokens or 0)
            if agent is not None:
                agent.prompts += 1
                agent.tokens += tokens or 0
                agent.latency_sum += latency
        else:
            history.failures[outcome] += 1
            if agent is not None:
                agent.failed += 1

    def _agent(self, name: str) -> AgentFigures:
        return self.history.agents.setdefault(name, AgentFigures(name))
