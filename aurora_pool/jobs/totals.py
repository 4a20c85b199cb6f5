"""Many jobs' summaries added up to one."""

from __future__ import annotations

from collections import Counter

from aurora_pool.jobs.options import AgentTotals, Ending, JobSummary
from aurora_pool.jobs.resume import Resumed


class Totals:
    """What finished pieces of a job come to, in memory that does not grow with their number."""

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.remaining = 0
        self.done = 0
        self.failed_now = 0
        self._failures: Counter[str] = Counter()
        self._first_failure: str | None = None
        self._skipped = 0
        self._prompt_tokens = 0
        self._tokens = 0
        self._cached = 0
        self._asked_again = 0
        self._cost = 0.0
        self._agents: dict[str, list[int]] = {}

    def add(self, summary: JobSummary) -> None:
        """Add one job's summary."""
        self.answered += summary.answered
        self.failed += summary.failed
        self.remaining += summary.remaining
        self.done += summary.done
        self.failed_now += summary.failed_now
        self._failures.update(summary.failures)
        self._first_failure = self._first_failure or summary.first_failure
        self._skipped += summary.skipped
        self._prompt_tokens += summary.prompt_tokens
        self._tokens += summary.tokens
        self._cached += summary.cached
        self._asked_again += summary.asked_again
        self._cost = max(self._cost, summary.cost)  # the pool's, of all pieces so far
        for agent in summary.agents:
            counts = self._agents.setdefault(agent.agent, [0, 0])
            counts[0] += agent.prompts
            counts[1] += agent.tokens

    def summary(
        self,
        *,
        ending: Ending,
        reason: str,
        output: str,
        model: str,
        elsewhere: int,
        left: int,
        seconds: float,
        moved: int,
        hedged: int,
    ) -> JobSummary:
        """Make one summary of all: ``elsewhere`` requests were answered by others, ``left`` ones were not begun."""
        answered, remaining = self.answered + elsewhere, self.remaining + left
        return JobSummary(
            ending=ending if remaining else "finished",
            reason=reason if remaining else "",
            output=output,
            ordered=None,
            table=None,
            model=model,
            total=answered + self.failed + remaining,
            answered=answered,
            failed=self.failed,
            remaining=remaining,
            done=self.done,
            failed_now=self.failed_now,
            failures=dict(self._failures),
            first_failure=self._first_failure,
            skipped=self._skipped,
            seconds=seconds,
            prompt_tokens=self._prompt_tokens,
            tokens=self._tokens,
            cached=self._cached,
            asked_again=self._asked_again,
            moved=moved,
            hedged=hedged,
            cost=self._cost,
            agents=tuple(AgentTotals(agent, *counts) for agent, counts in sorted(self._agents.items())),
            resumed=Resumed(),
        )
