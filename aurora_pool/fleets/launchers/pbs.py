"""Agents under PBS: one job of as many nodes as it takes."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress

from aurora_pool.errors import NoAgentsError
from aurora_pool.fleets.launchers.common import ASKING, IN_PASSING, Launcher, agent_command, call, mark, opening
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group

# The shell on each node puts in the node's number, which each of these starters names in its own way.
_ON_EACH_NODE = """\
if command -v mpiexec >/dev/null; then
    mpiexec -n COUNT --ppn 1 bash -c "$agent \\${PALS_RANKID:-\\${PMI_RANK:-\\$OMPI_COMM_WORLD_RANK}}" &
elif command -v pbsdsh >/dev/null; then
    pbsdsh -- bash -c "$agent \\$PBS_NODENUM" &
else
    number=0
    for node in $(awk '!seen[$0]++' "$PBS_NODEFILE" | head -n COUNT); do
        ssh -tt -o BatchMode=yes "$node" "$agent $number" </dev/null &
        number=$((number + 1))
    done
fi
trap 'kill $(jobs -p)' TERM INT
wait # until all have ended, or until SIGTERM, which is passed on; then for them
wait
"""

_QUEUED = {"Q": "in the queue", "H": "held in the queue", "W": "in the queue", "T": "in the queue"}
_STATES = _QUEUED | {"R": "starting", "E": "ending"}


class Pbs(Launcher):
    """Submits one job; on each of its nodes runs one supervisor."""

    scheduled = True

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the job's script; the group's options come last."""
        name = f"{run.path.name}-{group.name}".replace(".", "-")[:15]
        options = [f"-N {name}", "-j oe", f"-o {run.path / 'logs' / f'{group.name}.out'}"]
        if not any("select=" in option for option in group.options):
            options += [f"-l select={group.elements}", "-l place=scatter"]
        head = "#!/bin/bash\n" + "".join(f"#PBS {option}\n" for option in [*options, *group.options])
        agent = f"env {mark(run)} {agent_command(run, group, '')}".strip()
        return (
            head
            + opening(run, group, "one supervisor on each node")
            + f"agent={shlex.quote(agent)}\n"
            + _ON_EACH_NODE.replace("COUNT", str(group.elements))
        )

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Submit the script; the handle is the job's id."""
        return [call("qsub", str(run.script(fleet, group)), apart=True).strip()]

    def waiting(self, handle: list[str]) -> str:
        """Say what the queue says of the job."""
        try:
            return _STATES.get(_state_of(handle), "")
        except NoAgentsError as error:
            return "" if _is_over(error) else str(error)

    def stop_queued(self, handle: list[str]) -> None:
        """Delete the job if it has not begun."""
        with suppress(NoAgentsError):  # what is wrong, stop says
            if _state_of(handle, within=IN_PASSING) in _QUEUED:
                call("qdel", handle[0], within=IN_PASSING)

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """Delete the job."""
        try:
            call("qdel", handle[0])
        except NoAgentsError as error:
            return [] if _is_over(error) else [f"job {handle[0]}: {error}"]
        return []


def _state_of(handle: list[str], *, within: float = ASKING) -> str:
    """Give the letter of a job's state. Raises :class:`NoAgentsError` if it has ended, or qstat does not tell."""
    said = call("qstat", "-f", "-F", "json", handle[0], within=within)
    try:
        jobs = json.loads(said).get("Jobs", {})
    except ValueError as error:
        raise NoAgentsError(f"qstat printed what is no JSON: {error}") from error
    return next((str(job.get("job_state", "")) for job in jobs.values()), "")


def _is_over(error: NoAgentsError) -> bool:
    """Whether PBS says that the job has ended; any other error tells nothing of it."""
    return any(words in str(error) for words in ("Unknown Job", "has finished"))
