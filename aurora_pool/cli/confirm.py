"""Asks before a resumed job runs much of what is answered again."""

from __future__ import annotations

import asyncio
import sys

from aurora_pool.cli.console import say
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.resume import Resumed
from aurora_pool.terminal import is_terminal

SHARE = 0.1
"""The share of old answers that may be replaced without a question."""


async def confirm_changes(found: Resumed) -> None:
    """Ask whether answers to requests that have changed are to be replaced, where they are many.

    Raises :class:`~aurora_pool.errors.ConfigError` if not, or if there is nobody to be asked.
    """
    earlier = found.answered + found.failed + found.changed
    if found.changed <= SHARE * earlier:
        return
    question = (
        f"{found.changed} of {earlier} answered requests have changed since (such as {', '.join(found.examples)}) "
        "and would run again"
    )
    if not is_terminal(sys.stdin, sys.stderr):
        raise ConfigError(f"{question}; --yes runs them, another output keeps the old answers")
    say(f"{question}; go on? [y/N]")
    if (await _answer()).strip().lower() not in {"y", "yes"}:
        raise ConfigError("nothing was changed; another output keeps the old answers")


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
