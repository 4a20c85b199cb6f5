"""How agents come onto machines: one launcher for each place.

Every launcher writes one readable script for each group; the script starts ``aurora-pool agent`` on each machine.
"""

from __future__ import annotations

import os

from aurora_pool.fleets.launchers import kubernetes, local, pbs, slurm, ssh
from aurora_pool.fleets.launchers.common import Launcher
from aurora_pool.fleets.spec import Fleet

__all__ = ["Launcher", "launcher_name", "make_launcher"]


def launcher_name(fleet: Fleet) -> str:
    """Say which launcher a fleet needs: that of its place, or in an allocation of Slurm that of its nodes."""
    return "allocation" if fleet.where == "slurm" and "SLURM_JOB_ID" in os.environ else fleet.where


def make_launcher(name: str) -> Launcher:
    """Make the launcher of that name."""
    launchers: dict[str, type[Launcher]] = {
        "local": local.Local,
        "slurm": slurm.Slurm,
        "allocation": slurm.Allocation,
        "pbs": pbs.Pbs,
        "ssh": ssh.Ssh,
        "kubernetes": kubernetes.Kubernetes,
    }
    return launchers[name]()
