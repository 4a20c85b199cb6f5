"""Agents on machines that ssh reaches, which share a file system with this one."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor

from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.fleets.launchers.common import ASKING, Launcher, agent_command, call, mark, opening
from aurora_pool.fleets.run_folder import RunFolder
from aurora_pool.fleets.spec import Fleet, Group

# In the background there, in a session of its own: it outlives this connection.
_EACH = """\
hosts=(HOSTS)
start() { # HOST NUMBER
    ssh -n -o BatchMode=yes OPTIONS"$1" "setsid $agent $2 </dev/null >>LOGS-$2.out 2>&1 &" || echo "$1" >>FAILED
}
rm -f FAILED
for number in "${!hosts[@]}"; do
    start "${hosts[number]}" "$number" &
done
wait
if [ -s FAILED ]; then
    echo "not reached: $(tr '\\n' ' ' <FAILED)" >&2
    exit 1
fi
"""

AT_ONCE = 32
"""How many hosts are reached at the same time to end what runs there."""


class Ssh(Launcher):
    """Starts one supervisor on each host, from here."""

    def script(self, run: RunFolder, fleet: Fleet, group: Group) -> str:
        """Write the script. Raises :class:`ConfigError` if there are too few hosts."""
        if group.elements > len(group.hosts):
            raise ConfigError(
                f"hosts: {group.agents} agents, {group.agents_per_node} on each, need {group.elements} hosts; "
                f"there are {len(group.hosts)}"
            )
        logs = run.path / "logs" / group.name
        agent = f"env {mark(run)} {agent_command(run, group, '')}".strip()
        body = _EACH.replace("HOSTS", shlex.join(group.hosts[: group.elements]))
        body = body.replace("OPTIONS", "".join(f"{shlex.quote(word)} " for word in _words(group)))
        body = body.replace("LOGS", str(logs)).replace("FAILED", f"{logs}.failed")
        return f"#!/bin/bash\n{opening(run, group, 'over ssh')}agent={shlex.quote(agent)}\n{body}"

    def start(self, run: RunFolder, fleet: Fleet, group: Group) -> list[str]:
        """Run the script; the handle is the hosts, and the options to reach them."""
        call("/bin/bash", str(run.script(fleet, group)), apart=True)
        return [shlex.join(_words(group)), *group.hosts[: group.elements]]

    def waiting(self, handle: list[str]) -> str:
        """Nobody but the agents themselves tells."""
        return "starting"

    def stop(self, run: RunFolder, handle: list[str]) -> list[str]:
        """End everything of the fleet on each host, and wait for it."""
        options, *hosts = handle
        words = [sys.executable, "-P", "-m", "aurora_pool", "agent", str(run.path), "--sweep"]
        within = ASKING + run.last_fleet().drain

        def end(host: str) -> str:
            try:
                call("ssh", "-n", "-o", "BatchMode=yes", *shlex.split(options), host, shlex.join(words), within=within)
            except NoAgentsError as error:
                return f"{host}: {error}"
            return ""

        with ThreadPoolExecutor(AT_ONCE) as threads:
            return [problem for problem in threads.map(end, hosts) if problem]


def _words(group: Group) -> list[str]:
    return [word for option in group.options for word in shlex.split(option)]
