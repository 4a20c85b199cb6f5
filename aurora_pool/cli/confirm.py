"""Asks before a resumed job runs much of what is answered again, or appends to the output of another."""

from __future__ import annotations

import asyncio
import sys

from aurora_pool.cli.console import say
from aurora_pool.errors import ConfigError, counted
from aurora_pool.jobs.resume import Resumed
from aurora_pool.terminal import is_terminal

SHARE = 0.1
"""The share of old answers that may be replaced without a question."""


async def confirm_changes(found: Resumed) -> None:
    """Ask whether answers to requests that have changed are to be replaced, where they are many.

    Asks as well where the output has records, and none of them is of a request of this input.
    Raises :class:`~aurora_pool.errors.ConfigError` if not, or if there is nobody to be asked.
    """
    question = question_of(found)
    if question is None:
        return
    if not is_terminal(sys.stdin, sys.stderr):
        raise ConfigError(f"{question}; --yes goes on, another output keeps the old answers")
    say(f"{question}; go on? [y/N]")
    if (await _answer()).strip().lower() not in {"y", "yes"}:
        raise ConfigError("nothing was changed; another output keeps the old answers")


def question_of(found: Resumed) -> str | None:
    """Say what is to be asked about; None for a job that simply goes on.

    >>> question_of(Resumed(foreign=153))
    'none of the 153 records in the output is of a request in the input; the answers would be added to them'
    """
    earlier = found.answered + found.failed + found.retried + found.changed
    if found.foreign and not earlier:
        records = counted(found.foreign, "record")
        return f"none of the {records} in the output is of a request in the input; the answers would be added to them"
    if found.changed <= SHARE * earlier:
        return None
    return (
        f"{found.changed} of {earlier} answered requests have changed since (such as {', '.join(found.examples)}) "
        "and would run again"
    )


async def _answer() -> str:
    # Not by input(), which would keep the loop, and a Ctrl-C, waiting.
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def is_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sys.stdin.fileno(), is_ready)
    try:
        await ready
    finally:
        loop.remove_reader(sys.stdin.fileno())
    return sys.stdin.readline()
