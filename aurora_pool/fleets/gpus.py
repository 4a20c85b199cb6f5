"""GPUs: which are free on this machine, and which an agent gets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from aurora_pool.errors import ConfigError
from aurora_pool.fleets.spec import GpuKind, Group

VARIABLES: dict[GpuKind, str] = {
    "cuda": "CUDA_VISIBLE_DEVICES",
    "rocm": "ROCR_VISIBLE_DEVICES",
    "xpu": "ZE_AFFINITY_MASK",
}

BUSY = 0.05
"""A GPU of whose memory more than this share is taken is not free."""

ASKING = 30.0
"""Seconds that the driver's tool has to answer."""


def gpu_environment(group: Group, slot: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Tell an agent which GPUs are its own: the ``slot``-th share of those that the scheduler gave, or of all.

    >>> gpu_environment(Group(gpus_per_agent=2, agents_per_node=2), 1, {})
    {'CUDA_VISIBLE_DEVICES': '2,3'}
    >>> gpu_environment(Group(gpus_per_agent=1, agents_per_node=2), 1, {"CUDA_VISIBLE_DEVICES": "4,6"})
    {'CUDA_VISIBLE_DEVICES': '6'}

    An agent alone on its machine, or one that asks for none, keeps what is set. Raises :class:`ConfigError` if the
    scheduler gave fewer than all agents of the machine need.
    """
    if not group.gpus_per_agent:
        return {}
    variable = VARIABLES[group.gpus]
    given = [each for each in environment.get(variable, "").split(",") if each]
    first, end = slot * group.gpus_per_agent, (slot + 1) * group.gpus_per_agent
    if not given:
        return {variable: ",".join(str(number) for number in range(first, end))}
    if end > len(given):
        raise ConfigError(f"{variable} names {len(given)} GPUs; expected {end} for {slot + 1} agents on this machine")
    return {variable: ",".join(given[first:end])}


def free_gpus(environment: Mapping[str, str] = os.environ) -> tuple[GpuKind | None, list[str]]:
    """Tell which GPUs of this machine nobody uses: their kind, None if no tool shows any, and their numbers."""
    allowed = {each for each in environment.get(VARIABLES["cuda"], "").split(",") if each}
    lines = _ask("nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    free = [row[0] for row in rows if len(row) == 3 and _free(row[1], row[2])]
    if rows:
        return "cuda", [number for number in free if not allowed or number in allowed]
    lines = _ask("rocm-smi", "--showmemuse", "--csv")
    rows = [line.split(",") for line in lines if line.startswith("card")]
    return "rocm" if rows else None, [row[0].removeprefix("card") for row in rows if _free(row[1], "100")]


def _free(used: str, total: str) -> bool:
    try:
        return float(used) <= BUSY * float(total)
    except ValueError:  # "[N/A]", of a GPU that is cut into slices
        return False


def _ask(*command: str) -> list[str]:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=ASKING, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return ran.stdout.splitlines()
