"""``--min-agents``: how many agents must answer, as a number or as a share of the fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from aurora_pool.cli.panels import FLEET
from aurora_pool.errors import ConfigError

MinAgentsOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--min-agents",
        metavar="N|SHARE%",
        help="How many agents must answer first, or which share of the fleet: 12 or 80%.",
        rich_help_panel=FLEET,
    ),
]


@dataclass(frozen=True, slots=True)
class MinAgents:
    """A number of agents, or a percentage: of those in a hostfile, or of a whole fleet whose folder ``fleet`` is."""

    number: int = 1
    percentage: float | None = None
    fleet: Path | None = None

    def of(self, listed: int) -> int:
        """How many that are, where ``listed`` agents are there already.

        >>> MinAgents(3).of(10), MinAgents(percentage=80).of(12)
        (3, 10)
        """
        if self.percentage is None:
            return self.number
        return max(1, math.ceil(self.percentage * self._size(listed) / 100))

    def _size(self, listed: int) -> int:
        from aurora_pool.fleets.run_folder import RunFolder

        try:
            folder = self.fleet is not None and self.fleet.is_dir() and RunFolder(self.fleet.absolute().parent)
            return len(folder.fleet().agent_names) if folder else listed
        except ConfigError:
            return listed


ONE = MinAgents()


def parse_min_agents(text: str, fleet: Path | None = None) -> MinAgents:
    """Read ``12`` or ``80%``.

    >>> parse_min_agents("80%")
    MinAgents(number=1, percentage=80.0, fleet=None)

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    share = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not (0 < value <= 100 if share else value >= 1 and value.is_integer()):
        raise ConfigError(f"--min-agents: expected a number such as 12, or a share such as 80%, got {text!r}")
    return MinAgents(percentage=value, fleet=fleet) if share else MinAgents(int(value))
