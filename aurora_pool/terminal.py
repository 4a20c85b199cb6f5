"""Text from servers, models and files, made safe for a terminal: it may show anything and change nothing. Pure."""

from __future__ import annotations

import re
from typing import TextIO

__all__ = ["as_shown", "one_line", "safe_text"]

# Escape sequences as ECMA-48 has them: strings (OSC sets titles and the clipboard), control sequences, and short ones.
_SEQUENCES = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c|\Z)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # they turn the order of what follows
    r"|[\ud800-\udfff]"
)


def safe_text(text: str) -> str:
    r"""Leave out escape sequences, and write other control characters as code; lines and tabs stay.

    >>> safe_text("\x1b]0;title\x07\x1b[31mred\x1b[0m\nnext\r\x08")
    'red\nnext\\r\\x08'
    """
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], _SEQUENCES.sub("", text.replace("\r\n", "\n")))


def one_line(text: object) -> str:
    r"""Make :func:`safe_text` of a message that is to stand in one line, so that it can forge no other.

    >>> one_line("busy\nERROR forged")
    'busy\\nERROR forged'
    """
    return safe_text(str(text)).replace("\n", "\\n").replace("\t", " ")


def as_shown(text: str, stream: TextIO) -> str:
    """Return what of a model's answer is written to a stream: safe text on a terminal, all of it anywhere else."""
    return safe_text(text) if stream.isatty() else text
