"""The summary of a job, for people and for programs."""

from __future__ import annotations

import shlex
from pathlib import Path

from aurora_pool.cli.display import duration
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.errors import counted
from aurora_pool.jobs.claimed_job import ClaimedJob
from aurora_pool.jobs.job import Job
from aurora_pool.jobs.options import Ending, JobSummary
from aurora_pool.jobs.resume import Resumed

SHOWN_AGENTS = 16
LONGEST_MESSAGE = 200

_BY_ENDING: dict[Ending, ExitCode] = {
    "finished": ExitCode.DONE,
    "incomplete": ExitCode.BAD_INPUT,
    "out of time": ExitCode.OUT_OF_TIME,
    "no agents": ExitCode.FLEET,
    "too many failures": ExitCode.TOO_MANY_FAILURES,
    "budget spent": ExitCode.BUDGET_SPENT,
}


def exit_code_of(summary: JobSummary, signal_code: ExitCode | None = None) -> ExitCode:
    """Give the exit code for how a run ended; ``signal_code`` if it was a signal that ended it."""
    if summary.remaining and summary.ending == "finished":
        return ExitCode.BAD_INPUT  # there is no such ending; whatever was wrong, it is not done
    if summary.ending == "finished" and summary.failed:
        return ExitCode.SOME_FAILED
    code = _BY_ENDING.get(summary.ending)
    return code if code is not None else signal_code or ExitCode.INTERRUPTED


def describe_resumed(found: Resumed, output: str, *, repaired: bool = True) -> list[str]:
    """Say what earlier runs had left, if anything is worth saying, and where the rest is, or would be."""
    lines = []
    now = "now in" if repaired else "to go to"
    if found.answered or found.failed:
        lines.append(f"earlier runs: {found.answered} answered, {found.failed} failed")
    if found.unfit:
        lines.append(f"answered before, and not what is expected now: {found.unfit}, ")
        if found.retried:
            lines[-1] += f"run again; the old answers are {now} {output}.superseded"
        else:
            lines[-1] += "kept, and counted as failed; --retry-failed runs them again"
    failed = found.retried - found.unfit if found.retried else 0
    if failed:
        lines.append(f"failed before, run again: {failed}")
    if found.changed:
        shown = ", ".join(found.examples)
        lines.append(f"changed since they were answered, run again: {found.changed} (such as {shown}); ")
        lines[-1] += f"the old answers are {now} {output}.superseded"
    if found.moved:
        lines.append(f"moved to another line of the input, kept: {found.moved}")
    if found.unchecked:
        lines.append(f"written by another program, taken unchanged: {found.unchecked}")
    if found.foreign:
        lines.append(f"not in the input, left alone: {found.foreign}")
    if found.damaged:
        lines.append(f"lines that are no records, or second ones: {found.damaged}; {now} {output}.superseded")
    if found.torn:
        lines.append("the end of the output was cut off, or damaged; what there was of a record is set aside")
    if found.unreadable:
        lines.append(f"bytes that could not be unpacked: {found.unreadable}; {now} {output}.damaged")
    return lines


def describe(summary: JobSummary, job: Job | ClaimedJob) -> list[str]:
    """Say in lines of text how a job ended, and what comes next if drivers share it."""
    lines = []
    lines.append(
        f"{counted(summary.done, 'request')} in {duration(summary.seconds)}: "
        f"{summary.prompts_per_second:.1f} requests/s, {summary.tokens_per_second:.0f} tokens/s "
        f"({summary.tokens} generated, {summary.prompt_tokens} read), "
        f"{summary.failed_now} failed, {summary.moved} retried"
    )
    if summary.first_failure is not None:
        causes = ", ".join(f"{cause} {count}" for cause, count in summary.failures.items())
        lines.append(f"failed: {causes}; the first was {_shortened(summary.first_failure)}")
    if summary.asked_again:
        lines.append(f"asked again for an answer that would do: {counted(summary.asked_again, 'time')}")
    if summary.cached:
        lines.append(f"answered from the cache: {summary.cached}")
    if summary.cost:
        lines.append(f"cost of hosted agents: {summary.cost:,.4f}")
    if summary.skipped:
        lines.append(f"bad lines skipped: {summary.skipped}")
    if summary.agents:
        width = max(len(agent.agent) for agent in summary.agents)
        busiest = sorted(summary.agents, key=lambda agent: -agent.prompts)
        for agent in busiest[:SHOWN_AGENTS]:
            rate = agent.tokens / summary.seconds if summary.seconds > 0 else 0.0
            lines.append(f"  {agent.agent:<{width}}  {agent.prompts:>8} requests  {rate:>8.0f} tokens/s")
        if len(busiest) > SHOWN_AGENTS:
            lines.append(f"  and {len(busiest) - SHOWN_AGENTS} more agents")
    state = f"{summary.answered} of {summary.total} answered, {summary.failed} failed"
    if summary.remaining:
        lines.append(f"{state}, {summary.remaining} still to do ({summary.reason}); the same command goes on from here")
    else:
        lines.append(f"all done: {state}")
    lines.append(f"answers: {summary.output}")
    if summary.ordered is not None:
        lines.append(f"in the order of the input: {summary.ordered}")
    if summary.table is not None:
        lines.append(f"as a table: {summary.table}")
    return [*lines, *_what_follows(summary, job)]


def _what_follows(summary: JobSummary, job: Job | ClaimedJob) -> list[str]:
    if summary.remaining:
        return []
    if isinstance(job, ClaimedJob):
        return [f"to join the answers: aurora-pool merge {shlex.quote(str(job.output))} -o FILE"]
    if job.options.shard is None:
        return []
    folder = Path(job.output).parent
    return [f"to join the answers when all shards are done: aurora-pool merge {shlex.quote(str(folder))} -o FILE"]


def _shortened(message: str) -> str:
    """A server's message in one line of bearable length."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def as_json(summary: JobSummary) -> str:
    """Write the summary as one line of JSON."""
    import msgspec

    # A name that is not UTF-8 comes with surrogates, which JSON has no place for.
    plain = msgspec.to_builtins(summary, enc_hook=str)
    plain |= {name: _encodable(value) for name, value in plain.items() if isinstance(value, str)}
    return msgspec.json.encode(plain).decode()


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
