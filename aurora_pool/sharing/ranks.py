"""Which of several processes this one is: told on the command line, or by who has started it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from aurora_pool.arguments import check_whole
from aurora_pool.errors import ConfigError

__all__ = ["Part"]

_RANKS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
    ("PALS_RANKID", "PALS_SIZE", None),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", None),
    ("PMIX_RANK", "PMIX_SIZE", None),
    ("PMI_RANK", "PMI_SIZE", None),
)
"""Variables with a rank, how many there are, and the first rank's number if that is not 0; the first pair found counts.
An array's own come first: each of its jobs has a SLURM_PROCID of 0."""


@dataclass(frozen=True, slots=True)
class Part:
    """Number ``index`` of ``count``, counted from 0."""

    index: int
    count: int

    def __post_init__(self) -> None:
        check_whole(0, optional=False, index=self.index, count=self.count)
        if not self.index < self.count:
            raise ConfigError(f"expected a part from 0/{self.count} to {self.count - 1}/{self.count}, got {self}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_part(text: str, *, environment: Mapping[str, str] = os.environ) -> Part:
    """Read ``k/n``, counted from 0; ``auto`` is this process's rank as its launcher tells it.

    >>> parse_part("2/8")
    Part(index=2, count=8)

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    if text == "auto":
        return find_rank(environment)
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None or int(match[2]) == 0:
        raise ConfigError(f"expected a part as k/n with k from 0 to n-1, or auto, got {text!r}")
    return Part(int(match[1]), int(match[2]))


def find_rank(environment: Mapping[str, str] = os.environ) -> Part:
    """Tell this process's rank by what Slurm, PALS, Open MPI or PMI have set.

    >>> find_rank({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"})
    Part(index=3, count=4)

    Raises :class:`~aurora_pool.errors.ConfigError` if nobody tells.
    """
    for rank, count, first in _RANKS:
        if rank in environment and count in environment:
            try:
                index = int(environment[rank]) - (int(environment.get(first, 0)) if first is not None else 0)
                return Part(index, int(environment[count]))
            except ValueError:
                raise ConfigError(f"expected whole numbers in {rank} and {count}") from None
    names = ", ".join(rank for rank, _, _ in _RANKS)
    raise ConfigError(f"no rank is set: expected one of {names} with its count; or give the part as k/n")
