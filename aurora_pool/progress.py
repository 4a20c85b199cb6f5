"""Progress of one call to a pool: told to a function, or shown as a bar on a terminal or in a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from aurora_pool.arguments import check_callable, check_instance
from aurora_pool.messages import Response

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["CallProgress", "OnCallProgress", "ProgressReport"]


@dataclass(frozen=True, slots=True)
class CallProgress:
    """How far one call has come.

    ``done`` prompts have their response, ``failed`` of them without an answer; ``total`` is how many there are in all,
    as far as is known now, or None; ``seconds`` have passed since the call began.

    >>> CallProgress(done=50, failed=0, total=200, seconds=10.0).eta
    30.0
    """

    done: int
    failed: int
    total: int | None
    seconds: float

    @property
    def prompts_per_second(self) -> float:
        """Prompts done per second, over the whole call so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that the rest will take at the speed so far; None while that can't be told."""
        if self.total is None or not self.done:
            return None
        return (self.total - self.done) * self.seconds / self.done


OnCallProgress: TypeAlias = Callable[[CallProgress], None]
"""Is called with the progress whenever responses have come, and a last time when all have."""


class ProgressReport(AbstractContextManager["ProgressReport"]):
    """Counts responses, and reports them to a function and on a bar.

    >>> with ProgressReport(2, on_progress=lambda progress: print(progress.done, "of", progress.total)) as report:
    ...     report.count([Response(True, "one")])
    ...     report.count([Response(True, "two")])
    1 of 2
    2 of 2

    ``total`` may be too low, as where work grows from answers: it is never shown lower than what is done. The bar
    (``progress=True``) is drawn on standard error if that is a terminal or a notebook, and not at all elsewhere.
    Raises :class:`~aurora_pool.errors.ConfigError` for what can't be called.
    """

    def __init__(self, total: int | None, *, on_progress: OnCallProgress | None = None, progress: bool = False) -> None:
        check_callable(on_progress=on_progress)
        check_instance("progress", progress, bool, optional=False)
        self._total = total
        self._on_progress = on_progress
        self._bar: tuple[Progress, TaskID] | None = _new_bar() if progress else None
        self._done = self._failed = 0
        self._started = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Whether anybody looks."""
        return self._on_progress is not None or self._bar is not None

    def count(self, responses: Iterable[Response]) -> None:
        """Record responses that have come."""
        for response in responses:
            self._done += 1
            self._failed += not response.success
        total = None if self._total is None else max(self._total, self._done)
        if self._on_progress is not None:
            seconds = time.monotonic() - self._started
            self._on_progress(CallProgress(self._done, self._failed, total, seconds))
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self._done, total=total, failed=f"{self._failed} failed" if self._failed else "")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar[0].stop()


def _new_bar() -> tuple[Any, Any] | None:
    from rich.console import Console  # noqa: PLC0415 (importing rich takes long, and few calls show a bar)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        return None
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[failed]}"))
    bar = Progress(*columns, console=console)
    return bar, bar.add_task("", total=None, failed="")
