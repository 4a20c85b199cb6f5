"""The options of a job, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeAlias, get_args

from aurora_pool.arguments import check_callable, check_fields, check_one_of, check_positive, check_seconds
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.columns import Columns
from aurora_pool.jobs.formats import InputFormat
from aurora_pool.jobs.guardrails import Guardrails
from aurora_pool.jobs.resume import OnResume, Resumed
from aurora_pool.jobs.survey import OnBadLine
from aurora_pool.jobs.validation import Expectation
from aurora_pool.options import PromptFormat
from aurora_pool.sharing.ranks import Part

__all__ = ["AgentTotals", "Ending", "JobOptions", "JobSummary"]

_COLUMNS, _EXPECT, _GUARDRAILS = Columns(), Expectation(), Guardrails()

# What the fields of JobOptions must be.
_KINDS: Mapping[type | UnionType, Sequence[str]] = {
    Mapping: ("model_map", "defaults"),
    Columns: ("columns",),
    Expectation: ("expect",),
    Guardrails: ("guardrails",),
    bool: ("allow_empty", "cache_sampled", "retry_failed", "ordered", "fsync_every_record", "run_log"),
}
_OPTIONAL_KINDS: Mapping[type | UnionType, Sequence[str]] = {
    str: ("model", "system_prompt"),
    str | Path: ("table", "cache"),
    Part: ("shard",),
}
_ABOVE_0 = ("fsync_interval", "warn_factor", "warn_after", "interval")

Ending: TypeAlias = Literal[
    "finished",  # every request has its record
    "drained",  # was told to end: took nothing new, and waited for what was in flight
    "stopped",  # was told to stop at once; what was in flight is lost and will be run again
    "out of time",  # the allocation ends; drained in time
    "too many failures",  # the guardrails say that it is hopeless; drained
    "budget spent",  # the guardrails say that it has cost enough; drained
    "incomplete",  # the input gave fewer requests than it did when it was looked through
    "no agents",  # no agent has been in service for as long as the pool waits
]
"""How a run of a job ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How a job is run. Times are seconds.

    >>> options = JobOptions(retry_failed=True, ordered=True, guardrails=Guardrails(failure_share=0.05))

    - ``model``: what the input must ask for, if it names a model; ``model_map``: names in the input to names in the
      fleet; ``defaults``: body fields for requests that lack them;
    - ``prompt_format``: how short lines and lines of text are put; with a ``system_prompt``, as chats that begin so;
    - ``input_format``: ``"auto"`` goes by the file's name, then by its first character;
    - ``columns``: what the columns of rows are for; ``table``: where to write a table when everything is finished,
      with the columns that are kept (all, if none is named) and the answers;
    - ``on_bad_line``: ``"stop"`` before anything is sent, or ``"skip"``; ``allow_empty``: no request is no error;
    - ``expect``: what answers must be; ``guardrails``: what ends the job early;
    - ``cache``: a folder of answers that jobs share; ``cache_sampled``: of what is sampled without a seed as well;
    - ``before_resume``: is called with what the output has, before it is changed or added to, and may raise;
    - ``retry_failed``: run again what an earlier run recorded as failed;
    - ``ordered``: write a copy in the order of the input when everything is finished;
    - ``fsync_interval``, ``fsync_every_record``: how often the disk is waited for. A kill of the process loses nothing
      either way; a crash of the machine loses what is younger than this;
    - ``deadline``: seconds since 1970 at which the allocation ends;
    - ``warn_factor``, ``warn_after``: warn when no answer comes for this many times the usual latency, and this long;
    - ``shard``: only the requests whose ids belong to this part of them;
    - ``run_log``: write ``<output>.runlog``, which ``aurora-pool report`` reads;
    - ``interval``: how often progress is reported and clocks are checked.

    Raises :class:`~aurora_pool.errors.ConfigError` for arguments of another type and words that are none of these.
    """

    model: str | None = None
    model_map: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    prompt_format: PromptFormat = "auto"
    system_prompt: str | None = None
    input_format: InputFormat = "auto"
    columns: Columns = _COLUMNS
    table: str | Path | None = None
    on_bad_line: OnBadLine = "stop"
    allow_empty: bool = False
    expect: Expectation = _EXPECT
    guardrails: Guardrails = _GUARDRAILS
    cache: str | Path | None = None
    cache_sampled: bool = False
    before_resume: OnResume | None = None
    retry_failed: bool = False
    ordered: bool = False
    fsync_interval: float = 5.0
    fsync_every_record: bool = False
    deadline: float | None = None
    warn_factor: float = 10.0
    warn_after: float = 30.0
    shard: Part | None = None
    run_log: bool = True
    interval: float = 1.0

    def __post_init__(self) -> None:
        for name, words in (("prompt_format", PromptFormat), ("input_format", InputFormat), ("on_bad_line", OnBadLine)):
            check_one_of(name, getattr(self, name), get_args(words))
        check_fields(self, _KINDS, optional=False)
        check_fields(self, _OPTIONAL_KINDS)
        check_callable(before_resume=self.before_resume)
        check_seconds(deadline=self.deadline)
        check_positive(**{name: getattr(self, name) for name in _ABOVE_0})
        if self.system_prompt is not None and self.prompt_format == "raw":
            raise ConfigError("system_prompt: text that is sent raw has none")


@dataclass(frozen=True, slots=True)
class AgentTotals:
    """What one agent did in a run: prompts answered, tokens generated."""

    agent: str
    prompts: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """How a run ended.

    ``total`` requests are ``answered + failed + remaining``, earlier runs' records included; ``done`` (``failed_now``
    among them) were finished by this run, in ``seconds``. ``tokens`` are generated, ``prompt_tokens`` read, by this
    run; ``cached`` requests were answered without asking, ``asked_again`` is how often a request was put again because
    its answer would not do. ``failures`` counts what failed in it by cause, and
    ``first_failure`` is the id and message of the first. ``cost`` is what hosted agents have cost in it.
    ``skipped`` is how many bad lines were.
    """

    ending: Ending
    reason: str
    output: str
    ordered: Path | None
    table: str | None
    model: str
    total: int
    answered: int
    failed: int
    remaining: int
    done: int
    failed_now: int
    failures: Mapping[str, int]
    first_failure: str | None
    skipped: int
    seconds: float
    prompt_tokens: int
    tokens: int
    cached: int
    asked_again: int
    moved: int
    hedged: int
    cost: float
    agents: tuple[AgentTotals, ...]
    resumed: Resumed

    def with_copies(self, *, ordered: Path | None, table: str | Path | None) -> Self:
        """Say where the sorted copy and the table are."""
        return replace(self, ordered=ordered, table=None if table is None else str(table))

    @property
    def prompts_per_second(self) -> float:
        """Prompts that this run finished, per second."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens that this run had generated, per second."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0
