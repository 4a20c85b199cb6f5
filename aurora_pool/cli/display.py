"""How a running job is shown: a progress bar on a terminal, lines of text elsewhere, nothing if so wished."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from aurora_pool.cli.console import UNSAID, say
from aurora_pool.jobs.meter import Progress, Standstill
from aurora_pool.terminal import is_terminal, one_line, printable

if TYPE_CHECKING:
    from rich.console import Console

FIRST_LINE = 10.0
"""Seconds to the first line of a log; each gap is longer than the one before, up to the longest."""
LONGEST_GAP = 300.0
WIDTH_FOR_A_BAR = 110
"""Columns of a terminal that has room for a bar beside what is said."""


class Display(Protocol):
    """Shows progress, and what is worth a line of its own."""

    def start(self) -> None:
        """Begin to show."""

    def update(self, progress: Progress) -> None:
        """Show how things stand."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def stop(self) -> None:
        """Leave the terminal as it was."""


def make_display(*, quiet: bool) -> Display:
    """Make what suits standard error. Warnings of the package are shown by it too."""
    safe = _Safe(_Quiet() if quiet else _bar() or LogDisplay())
    handler = _ToDisplay(safe)
    logger = logging.getLogger("aurora_pool")
    logger.handlers[:] = [handler]
    logger.propagate = False
    return safe


def _bar() -> Display | None:
    """Make a progress bar, if standard error is a terminal that can show one."""
    try:
        if not is_terminal(sys.stderr):
            return None
        from rich.console import Console

        console = Console(stderr=True)
        return None if console.is_dumb_terminal else _Bar(console)
    except UNSAID:
        return None


class _Quiet:
    def start(self) -> None:
        pass

    def update(self, progress: Progress) -> None:
        pass

    def say(self, line: str) -> None:
        say(one_line(line))

    def stop(self) -> None:
        pass


class _Safe:
    """Another display, until it can't show anything any more: then there is nothing to see, and the job goes on."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def start(self) -> None:
        self._try(self._display.start)

    def update(self, progress: Progress) -> None:
        self._try(lambda: self._display.update(progress))

    def say(self, line: str) -> None:
        self._try(lambda: self._display.say(line))

    def stop(self) -> None:
        self._try(self._display.stop)

    def _try(self, show: Callable[[], None]) -> None:
        try:
            show()
        except UNSAID:
            self._display = _Quiet()


class LogDisplay(_Quiet):
    """Writes a line now and then, each gap longer than the one before."""

    def __init__(self) -> None:
        self._next = FIRST_LINE
        self._gap = FIRST_LINE
        self._standstills = _StandstillWatch()
        self._ending: str | None = None

    def update(self, progress: Progress) -> None:
        """Write a line if it is time for one, if the job begins to end, or if nothing moves."""
        for line in self._standstills.news(progress):
            self.say(line)
        if progress.ending != self._ending:
            self._ending = progress.ending
            self.say(f"ending: {progress.ending}; {waiting(progress)}")
        if progress.seconds >= self._next:
            self._gap = min(LONGEST_GAP, 1.5 * self._gap)
            self._next = progress.seconds + self._gap
            finished = progress.earlier + progress.done
            self.say(f"{finished}/{progress.total} ({finished / max(1, progress.total):.1%}) {describe(progress)}")


class _Bar:
    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self._console = console
        # Cut, not wrapped or ended by an ellipsis: a line of another width than rich takes it for floods the terminal.
        line = TextColumn("{task.fields[line]}", markup=False, table_column=Column(no_wrap=True, overflow="crop"))
        columns: list[ProgressColumn] = [line]
        if console.width >= WIDTH_FOR_A_BAR:
            columns.insert(0, BarColumn(bar_width=None))
        # No thread that refreshes: what it would raise nobody could catch.
        self._bar = RichProgress(*columns, console=console, expand=True, auto_refresh=False)
        self._task = self._bar.add_task("", total=None, line="")
        self._standstills = _StandstillWatch()

    def start(self) -> None:
        self._bar.start()

    def update(self, progress: Progress) -> None:
        for line in self._standstills.news(progress):
            self.say(line)
        finished = progress.earlier + progress.done
        parts = [f"{finished:,}/{progress.total:,}"]
        if progress.ending is not None:
            parts.append(f"ending: {waiting(progress)}")
        if progress.standstill is not None:
            parts.append(f"standstill {progress.standstill.seconds:.0f} s")
        line = printable(" | ".join([*parts, describe(progress)]))
        width = self._console.width
        self._bar.update(self._task, total=progress.total, completed=finished, line=line[: width - 1])
        self._bar.refresh()

    def say(self, line: str) -> None:
        self._console.print(one_line(line), highlight=False, markup=False, soft_wrap=True)

    def stop(self) -> None:
        self._bar.stop()


class _StandstillWatch:
    """Tells of a standstill when it begins and when it is over, not in between."""

    def __init__(self) -> None:
        self._standstill: Standstill | None = None

    def news(self, progress: Progress) -> list[str]:
        before, self._standstill = self._standstill, progress.standstill
        if progress.standstill is not None and before is None:
            agents = ", ".join(progress.standstill.agents) or "there is no agent"
            return [f"standstill: nothing has finished for {progress.standstill.seconds:.0f} s; {agents}"]
        if progress.standstill is None and before is not None:
            return ["going on after the standstill"]
        return []


class _ToDisplay(logging.Handler):
    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.say(f"{record.levelname.lower()}: {record.getMessage()}")


def describe(progress: Progress) -> str:
    """Say how fast a job is, how long it will take, and what went wrong."""
    parts = [f"{progress.prompts_per_second:.1f}/s", f"{progress.tokens_per_second:.0f} tok/s"]
    if progress.eta is not None:
        parts.append(f"ETA {duration(progress.eta)}")
    parts.append(f"{progress.failed} failed")
    if progress.moved:
        parts.append(f"{progress.moved} retried")
    parts.append(f"{progress.agents_in_service}/{progress.agents} agents")
    return ", ".join(parts)


def waiting(progress: Progress) -> str:
    """Say what an ending job waits for, and how long that will take."""
    about = "" if progress.drain is None else f", about {duration(progress.drain)}"
    return f"{progress.in_flight:,} in flight{about}"


def duration(seconds: float) -> str:
    """Write a time span.

    >>> duration(42), duration(3725), duration(100_000)
    ('0:42', '1:02:05', '27:46:40')
    """
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
