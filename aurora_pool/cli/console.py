"""What is said to people: on standard error and standard output, printable, and never a reason to end anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from aurora_pool.terminal import is_terminal, one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn
    from rich.text import Text

UNSAID = (OSError, ValueError)
"""What a stream raises that is closed, broken or full, or has another encoding."""


def say(text: str) -> None:
    """Write a message to standard error, if that is open."""
    _write(sys.stderr, printable(text))


def give(text: str) -> bool:
    """Put a result on standard output: unchanged into a pipe or a file, printable on a terminal.

    Returns False if it could not be written.
    """
    return _write(sys.stdout, printable(text) if is_terminal(sys.stdout) else text)


def cell(value: object) -> Text:
    """Make what a table may hold of a name or a message: no markup, no control characters; nothing of None."""
    from rich.text import Text

    return Text("" if value is None else one_line(value))


@contextmanager
def progress_bar(*columns: ProgressColumn, shown: bool = True, transient: bool = False) -> Iterator[Progress]:
    """Draw a progress bar on standard error, if that is a terminal and it is to be ``shown``."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(*columns, console=Console(stderr=True), transient=transient)
    # Not by its own switch: rich 14.0 writes an empty line in the end of one that is disabled.
    with bar if shown and is_terminal(sys.stderr) else nullcontext():
        yield bar


def prepare() -> None:
    """Make the standard streams safe to use.

    A closed one gets ``/dev/null`` below it: the next file that is opened would otherwise get its number, and whatever
    is said would go there. What an encoding lacks is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            while (opened := os.open(os.devnull, os.O_RDWR)) < number:
                pass
            if opened > number:
                os.close(opened)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what the standard streams still hold, and let nothing be made of it if they can't."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except UNSAID:
            # The interpreter tries again at its end, complains, and changes the exit code.
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            except UNSAID:
                continue


def _write(stream: TextIO | None, text: str) -> bool:
    if stream is None:
        return False
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except UNSAID:
        return False
    return True
