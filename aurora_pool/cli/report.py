"""``aurora-pool report``: why was it slow, and which was better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    outputs: Annotated[list[Path], typer.Argument(metavar="OUTPUT...", help="Outputs of aurora-pool run.")],
) -> None:
    """Show where the time of a job went; of several, compare them."""
