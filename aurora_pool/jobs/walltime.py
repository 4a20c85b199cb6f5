"""When an allocation ends: told on the command line, or found in what Slurm and PBS leave in the environment."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import datetime

from aurora_pool.errors import ConfigError

ASKING = 15.0
"""Seconds that the batch system has to answer."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

logger = logging.getLogger(__name__)


def parse_walltime(text: str) -> float:
    """Read a time span as batch systems write it, in seconds: ``[[HH:]MM:]SS``, ``D-HH:MM:SS``, or with a unit.

    >>> parse_walltime("11:30:00"), parse_walltime("90m"), parse_walltime("1-00:00:00"), parse_walltime("3600")
    (41400.0, 5400.0, 86400.0, 3600.0)

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    text = text.strip()
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return float(match[1]) * _UNITS[match[2]]
    if match := re.fullmatch(r"(?:(?P<d>\d+)-)?(?:(?:(?P<h>\d+):)?(?P<m>\d+):)?(?P<s>\d+(?:\.\d+)?)", text):
        return sum(float(value) * _UNITS[unit] for unit, value in match.groupdict(default="0").items())
    raise ConfigError(f"expected a time span such as 11:30:00, 90m or 41400, got {text!r}")


def find_deadline(
    walltime: str | None,
    *,
    environment: Mapping[str, str] = os.environ,
    now: Callable[[], float] = time.time,
) -> float | None:
    """Tell when the allocation ends, in seconds since 1970; None if nobody says.

    ``walltime`` counts from now on and wins. Slurm tells the end in ``SLURM_JOB_END_TIME``; PBS is asked by ``qstat``.
    Raises :class:`~aurora_pool.errors.ConfigError` for a ``walltime`` that is no time span.
    """
    if walltime is not None:
        return now() + parse_walltime(walltime)
    try:
        if "SLURM_JOB_END_TIME" in environment:
            return float(environment["SLURM_JOB_END_TIME"])
        if "PBS_JOBID" in environment:
            return _ask_pbs(environment["PBS_JOBID"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, ConfigError) as error:
        logger.warning("the batch system does not tell when the job ends (%s); give --walltime", error)
    return None


def _ask_pbs(job: str) -> float:
    command = ["qstat", "-f", "-F", "json", job]
    answer = subprocess.run(  # noqa: S603 - PBS's own command
        command, capture_output=True, timeout=ASKING, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    (described,) = json.loads(answer.stdout)["Jobs"].values()
    # Such as "Fri Nov 20 21:14:05 2026", in local time.
    started = datetime.strptime(described["stime"], "%a %b %d %H:%M:%S %Y").astimezone()
    return started.timestamp() + parse_walltime(described["Resource_List"]["walltime"])
