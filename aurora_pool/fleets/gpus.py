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


def mask(kind: GpuKind, environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """Tell which GPUs may be used, in the words that the user or the scheduler gave; None if nobody said.

    >>> mask("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-1a2b,3"}), mask("cuda", {"CUDA_VISIBLE_DEVICES": ""})
    (['GPU-1a2b', '3'], [])
    """
    said = environment.get(VARIABLES[kind])
    return None if said is None else [word for word in map(str.strip, said.split(",")) if word]


def gpu_environment(
    group: Group, slot: int, environment: Mapping[str, str] = os.environ, *, taken: int | None = None
) -> dict[str, str]:
    """Tell an agent which GPUs are its own: the ``slot``-th share of those that the scheduler gave, or of all.

    >>> gpu_environment(Group(gpus_per_agent=2, agents_per_node=2), 1, {})
    {'CUDA_VISIBLE_DEVICES': '2,3'}
    >>> gpu_environment(Group(gpus_per_agent=1, agents_per_node=2), 1, {"CUDA_VISIBLE_DEVICES": "4,6"})
    {'CUDA_VISIBLE_DEVICES': '6'}

    ``taken`` is how many come first, for other groups on the machine; None if there are no other groups. An agent
    alone on its machine, or one that asks for none, keeps what is set. Raises :class:`ConfigError` if the scheduler
    gave fewer than all agents of the machine need.
    """
    if not group.gpus_per_agent:
        return {}
    variable = VARIABLES[group.gpus]
    given = mask(group.gpus, environment)
    first = (taken or 0) + slot * group.gpus_per_agent
    end = first + group.gpus_per_agent
    if given is None:
        return {variable: ",".join(str(number) for number in range(first, end))}
    if end > len(given):
        raise ConfigError(f"{variable} names {len(given)} GPUs; expected {end} for {slot + 1} agents on this machine")
    if taken is None and group.agents_per_node == 1:
        return {}
    return {variable: ",".join(given[first:end])}


def free_gpus(environment: Mapping[str, str] = os.environ) -> tuple[GpuKind | None, list[str]]:
    """Tell which GPUs of this machine nobody uses: their kind, None if no tool shows any, and their names.

    Names are numbers, or the words of a mask that is set: only what that names is told of.
    """
    lines = _ask("nvidia-smi", "--query-gpu=index,uuid,memory.used,memory.total", "--format=csv,noheader,nounits")
    rows = [[part.strip() for part in line.split(",")] for line in lines]
    known = {(row[0], row[1]): _free(row[2], row[3]) for row in rows if len(row) == 4}
    if known:
        return "cuda", _allowed(known, mask("cuda", environment))
    lines = _ask("rocm-smi", "--showmemuse", "--csv")
    rows = [line.split(",") for line in lines if line.startswith("card")]
    known = {(row[0].removeprefix("card"), ""): _free(row[1], "100") for row in rows}
    return ("rocm", _allowed(known, mask("rocm", environment))) if known else (None, [])


def _allowed(known: Mapping[tuple[str, str], bool], names: list[str] | None) -> list[str]:
    if names is None:
        return [number for (number, _), free in known.items() if free]

    def is_free(name: str) -> bool:
        if name.lstrip("-").isdigit():
            return any(free for (number, _), free in known.items() if number == name)
        # A UUID may be shortened. That of a slice is not listed, and nobody can tell who uses it.
        return all(free for (_, uuid), free in known.items() if uuid.startswith(name))

    return [name for name in names if is_free(name)]


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
