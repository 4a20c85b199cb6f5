"""When an allocation ends: told on the command line, or found in what Slurm and PBS leave in the environment."""

from __future__ import annotations

import logging
import math
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
    raise ConfigError(f"expected a walltime such as 11:30:00, 90m or 41400, got {text!r}")


def find_deadline(
    walltime: str | None,
    *,
    environment: Mapping[str, str] = os.environ,
    now: Callable[[], float] = time.time,
) -> float | None:
    """Tell when the allocation ends, in seconds since 1970; None if nobody says.

    ``walltime`` counts from now on and wins. Slurm tells the end in ``SLURM_JOB_END_TIME``, or to ``squeue`` where its
    version does not; PBS is asked by ``qstat``.
    Raises :class:`~aurora_pool.errors.ConfigError` for a ``walltime`` that is no time span.
    """
    if walltime is not None:
        return now() + parse_walltime(walltime)
    try:
        source, end = _find(environment)
    except (OSError, subprocess.SubprocessError, ValueError, ConfigError) as error:
        logger.warning("the batch system does not tell when the job ends (%s); give --walltime", error)
        return None
    if end is not None and not now() < end < math.inf:
        # Such as in a terminal that was opened within an allocation and has outlived it.
        logger.warning("%s says that the allocation has ended already; that is ignored: give --walltime", source)
        return None
    if end is not None:
        logger.info("the allocation ends in %.0f s, says %s", end - now(), source)
    return end


def _find(environment: Mapping[str, str]) -> tuple[str, float | None]:
    """Say who tells when the allocation ends, and when that is."""
    if "SLURM_JOB_END_TIME" in environment:
        return "SLURM_JOB_END_TIME", float(environment["SLURM_JOB_END_TIME"])
    if "SLURM_JOB_ID" in environment:
        return "squeue", _ask_slurm(environment["SLURM_JOB_ID"])
    if "PBS_JOBID" in environment:
        return "qstat", _ask_pbs(environment["PBS_JOBID"])
    return "", None


def _ask_slurm(job: str) -> float:
    answer = _ask("squeue", "--noheader", "--jobs", job, "--format", "%e")
    # Such as "2026-11-20T21:14:05", in local time.
    return datetime.fromisoformat(answer.strip()).astimezone().timestamp()


def _ask_pbs(job: str) -> float:
    # Not as JSON: what PBS puts there of a user's environment is not always valid.
    answer = _ask("qstat", "-f", job)
    started = re.search(r"^\s*(?:stime|start_time) = (.+)$", answer, re.MULTILINE)  # Torque has the other name
    allowed = re.search(r"^\s*Resource_List\.walltime = (\S+)$", answer, re.MULTILINE)
    if started is None or allowed is None:
        raise ValueError(f"qstat -f {job} has no stime and Resource_List.walltime")
    # Such as "Fri Nov 20 21:14:05 2026", in local time: what ctime() writes.
    start = datetime.strptime(started[1].strip(), "%a %b %d %H:%M:%S %Y").astimezone()
    return start.timestamp() + parse_walltime(allowed[1])


def _ask(*command: str) -> str:
    environment = {**os.environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    answer = subprocess.run(  # noqa: S603 - the batch system's own command
        command, capture_output=True, text=True, timeout=ASKING, check=True, env=environment
    )
    return answer.stdout
