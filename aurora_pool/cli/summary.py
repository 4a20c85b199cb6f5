"""What a person is told at the end of a job, and what a program is."""

from __future__ import annotations

from aurora_pool.cli.display import duration
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.jobs.options import JobSummary
from aurora_pool.jobs.resume import Resumed

SHOWN_AGENTS = 16
LONGEST_MESSAGE = 200


def exit_code_of(summary: JobSummary, signal_code: ExitCode | None = None) -> ExitCode:
    """Give the exit code for how a run ended; ``signal_code`` if it was a signal that ended it."""
    if summary.ending == "finished":
        return ExitCode.SOME_FAILED if summary.failed else ExitCode.DONE
    if summary.ending == "out of time":
        return ExitCode.OUT_OF_TIME
    if summary.ending == "no agents":
        return ExitCode.FLEET
    return signal_code or ExitCode.INTERRUPTED


def describe_resumed(found: Resumed, output: str) -> list[str]:
    """Say what earlier runs had left, if anything is worth saying."""
    lines = []
    if found.answered or found.failed:
        lines.append(f"earlier runs: {found.answered} answered, {found.failed} failed")
    if found.retried:
        lines.append(f"failed before, run again: {found.retried}")
    if found.changed:
        shown = ", ".join(found.examples)
        lines.append(f"changed since they were answered, run again: {found.changed} (such as {shown}); ")
        lines[-1] += f"the old answers are in {output}.superseded"
    if found.unchecked:
        lines.append(f"written by another program, taken unchanged: {found.unchecked}")
    if found.foreign:
        lines.append(f"not in the input, left alone: {found.foreign}")
    if found.damaged:
        lines.append(f"lines that are no records, or second ones: {found.damaged}; now in {output}.superseded")
    return lines


def describe(summary: JobSummary) -> list[str]:
    """Say in lines of text how a job ended."""
    lines = []
    lines.append(
        f"{summary.done} requests in {duration(summary.seconds)}: {summary.prompts_per_second:.1f} requests/s, "
        f"{summary.tokens_per_second:.0f} tokens/s ({summary.tokens} generated, {summary.prompt_tokens} read), "
        f"{summary.failed_now} failed, {summary.moved} retried"
    )
    if summary.first_failure is not None:
        causes = ", ".join(f"{cause} {count}" for cause, count in summary.failures.items())
        lines.append(f"failed: {causes}; the first was {_shortened(summary.first_failure)}")
    if summary.skipped:
        lines.append(f"bad lines left out: {summary.skipped}")
    if summary.agents:
        width = max(len(share.agent) for share in summary.agents)
        busiest = sorted(summary.agents, key=lambda share: -share.prompts)
        for share in busiest[:SHOWN_AGENTS]:
            rate = share.tokens / summary.seconds if summary.seconds > 0 else 0.0
            lines.append(f"  {share.agent:<{width}}  {share.prompts:>8} requests  {rate:>8.0f} tokens/s")
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
    return lines


def _shortened(message: str) -> str:
    """A server's message in one line of bearable length."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def as_json(summary: JobSummary) -> str:
    """Write the summary as one line of JSON."""
    import msgspec

    return msgspec.json.encode(summary).decode()
