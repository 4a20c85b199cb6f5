"""Text from servers, models and files, made safe for a terminal: it may show anything and change nothing."""

from __future__ import annotations

import re
from typing import TextIO

__all__ = ["is_terminal", "one_line", "printable"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, sets a title, hides or turns round text, and what is no text; not a line's end, nor a tab."""


def printable(text: str) -> str:
    r"""Write what a terminal would obey, instead of showing it, as an escape.

    >>> printable("a title: \x1b]0;owned\x07")
    'a title: \\x1b]0;owned\\x07'
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(text: object) -> str:
    r"""Write a message that is to be one line :func:`printable`, so that it can forge no other.

    >>> one_line("busy\nERROR forged")
    'busy\\nERROR forged'
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", " ")


def is_terminal(*streams: TextIO | None) -> bool:
    """Whether standard streams are terminals, all of them: one that was closed, or is missing, is none."""
    try:
        return all(stream is not None and stream.isatty() for stream in streams)
    except (OSError, ValueError):
        return False
