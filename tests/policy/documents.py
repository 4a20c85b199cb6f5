"""Long texts that prompts begin with."""

from __future__ import annotations

import random


def document(number: int, length: int = 2000) -> str:
    """A text that begins as no other."""
    draw = random.Random(number)
    return f"{number} " + "".join(draw.choices("abcdefgh ", k=length))
