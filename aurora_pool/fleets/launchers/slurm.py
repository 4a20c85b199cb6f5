"""Agents under Slurm: a job array, or the nodes of the allocation that this process runs in."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.fleets.launchers.common import IN_PASSING, Launcher, agent_command, call, opening
from aurora_pool.fleets.launchers.local import Local, spawn
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group


class Slurm(Launcher):
    """Submits a job array, one element for each machine; an element whose node fails is queued again."""

    scheduled = True

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the job's script; the group's options come last, so they win."""
        output = run.path / "logs" / f"{group.name}-%a.out"
        options = [
            f"--job-name={_step_name(run, group)}",
            f"--array=0-{group.elements - 1}",
            "--nodes=1",
            "--ntasks=1",
            *_gres(group),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:TERM@{max(60, int(group.drain) + 30)}",
            f"--output={shlex.quote(str(output))}",
            *group.options,
        ]
        head = "#!/bin/bash\n" + "".join(f"#SBATCH {option}\n" for option in options)
        command = agent_command(run, group, '"$SLURM_ARRAY_TASK_ID"')
        return head + opening(run, group, "each element of the array on a node") + f"exec {command}\n"

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Submit the script; the handle is the job's id."""
        said = call("sbatch", "--parsable", str(run.script(fleet, group)), apart=True)
        return [said.strip().partition(";")[0]]

    def waiting(self, handle: list[str]) -> str:
        """Say what the queue says of the elements that have not begun."""
        try:
            said = call("squeue", "--noheader", "--array", "--jobs", handle[0], "--format", "%T %r")
        except NoAgentsError as error:
            return "" if _is_over(error) else str(error)
        rows = [row.split(None, 1) for row in said.splitlines() if row.strip()]
        pending = [reason for state, reason in rows if state == "PENDING"]
        if pending:
            return f"in the queue ({pending[0]})"
        return "" if not rows else "ending" if all(state == "COMPLETING" for state, _ in rows) else "starting"

    def stop_queued(self, handle: list[str]) -> None:
        """Cancel the elements that have not begun, those to be started again among them."""
        with suppress(NoAgentsError):  # what is wrong, stop says
            call("scancel", "--state=PENDING", handle[0], within=IN_PASSING)

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """Cancel the job."""
        try:
            call("scancel", handle[0])
        except NoAgentsError as error:
            return [] if _is_over(error) else [f"job {handle[0]}: {error}"]
        return []


class Allocation(Local):
    """Starts agents on the nodes of the allocation that this process runs in, one step for each group."""

    scheduled = True

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the script; each group has nodes of its own. Raises :class:`ConfigError` if there are too few."""
        job, nodes = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
        needed = sum(each.elements for each in fleet.groups)
        if needed > nodes:
            raise ConfigError(
                f"the fleet needs {needed} nodes, and allocation {job} has {nodes}; "
                "set agents or agents_per_node to what it holds"
            )
        first = sum(each.elements for each in fleet.groups[: fleet.groups.index(group)])
        options = [
            f"--jobid={job}",
            f"--job-name={_step_name(run, group)}",
            f"--nodes={group.elements}",
            f"--ntasks={group.elements}",
        ]
        options += [f"--relative={first}", "--overlap", "--no-kill", "--kill-on-bad-exit=0", "--wait=0"]
        options += [*_gres(group), *group.options]
        command = "exec " + agent_command(run, group, '"$SLURM_PROCID"')
        return (
            "#!/bin/bash\n"
            + opening(run, group, f"on nodes of allocation {job}")
            + f"exec srun {shlex.join(options)} \\\n    bash -c {shlex.quote(command)}\n"
        )

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Start the step and don't wait for it; the handle has the job and the step's name as well."""
        return [*spawn(run, fleet, group), os.environ["SLURM_JOB_ID"], _step_name(run, group)]

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """Send SIGTERM to the step's tasks; srun would kill them if it got that itself."""
        *_, job, name = handle
        try:
            steps = [
                row.split()
                for row in call("squeue", "--steps", "--noheader", "--jobs", job, "--format", "%i %j").splitlines()
            ]
            for step in (row[0] for row in steps if row[-1] == name):
                call("scancel", "--signal=TERM", step)
        except NoAgentsError as error:
            return [] if _is_over(error) else [f"a step of job {job}: {error}"]
        return []


def _is_over(error: NoAgentsError) -> bool:
    """Whether Slurm has forgotten the job, as it does once it has ended; any other error tells nothing of it."""
    return "Invalid job id" in str(error)


def _step_name(run: RunFolder, group: Group) -> str:
    return f"{run.path.name}-{group.name}"


def _gres(group: Group) -> list[str]:
    """Ask for GPUs, unless the group's own options do."""
    asked = any(option.startswith(("--gres", "--gpus", "-G")) for option in group.options)
    count = group.gpus_per_agent * group.agents_per_node
    return [f"--gres=gpu:{count}"] if count and not asked else []
