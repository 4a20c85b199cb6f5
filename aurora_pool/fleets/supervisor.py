"""What runs on each machine of a fleet: it starts the engines, announces them, starts them again, and ends them.

An agent's way::

    starting -- first 200 of /health --> ready -- SIGTERM, or the fleet is not wanted --> draining --> ended
       ^   |                               |
       |   +-------- engine ended ---------+
       |                     |
       +-- after a pause -- restarting --> failed, after too many restarts

An agent is in the hostfile only while it is ready.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from aurora_pool.errors import ConfigError
from aurora_pool.fleets import leash
from aurora_pool.fleets.engines import ADDRESS, PORT, engine_command
from aurora_pool.fleets.gpus import gpu_environment
from aurora_pool.fleets.network import ask, first_port, free_port, nobody_is_connected, own_address
from aurora_pool.fleets.processes import MARK, adopt_orphans, descendants, kill_all, reap
from aurora_pool.fleets.run_folder import AgentState, Phase, RunFolder
from aurora_pool.fleets.spec import Fleet, Group
from aurora_pool.hostfile import AgentEndpoint, format_hostfile
from aurora_pool.hostfile_source import HEARTBEAT, STALE_AFTER
from aurora_pool.policy.retry import backoff
from aurora_pool.wire.metrics import HEALTH_PATH, METRICS_PATH, parse_load

TICK = 0.2
"""Seconds between checks of the engines."""
ASKING = 1.0
"""Seconds that an engine has to answer; one that is merely busy loses nothing by being late."""
STEADY_AFTER = 600.0
"""Seconds of readiness after which earlier failures are forgotten."""
BROKEN_AFTER = 3
"""This many heartbeats in a row with an error on ``/health``, and the engine is started again."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds before an engine is started again: each time about twice as long."""
IDLE_POLLS = 2
"""This many polls in a row without a request, and an engine is drained: it may write the last bytes of an answer
after it has counted it as finished."""
TAIL = 15
"""How many of an engine's last lines are kept when it fails."""


def supervise(run: RunFolder, group_name: str, element: int) -> int:
    """Look after the agents of one machine until they have ended or failed; gives the exit code, 1 if any has failed.

    Raises :class:`ConfigError` if the fleet is not up any more, or agents can't run here as they should.
    """
    fleet = run.fleet()
    group = fleet.group(group_name)
    adopt_orphans()
    supervisor = Supervisor(run, fleet, group, element)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, supervisor.stop)
    try:
        while supervisor.tick(time.monotonic()):
            time.sleep(TICK)
    finally:
        kill_all(lambda: descendants(os.getpid()))
    return 1 if supervisor.failed else 0


class Supervisor:
    """The agents of one machine."""

    def __init__(self, run: RunFolder, fleet: Fleet, group: Group, element: int) -> None:
        self._run = run
        self._fleet = fleet
        self._stopping = False
        self._beat_at = 0.0
        self._owner = (0.0, 0.0)
        self._codes: dict[int, int] = {}
        self._agents = [Agent(run, fleet, group, index) for index in group.agents_of(element)]

    @property
    def failed(self) -> bool:
        """Whether an agent has failed for good."""
        return any(agent.phase == "failed" for agent in self._agents)

    def stop(self, *_: object) -> None:
        """Take all agents down at the next tick."""
        self._stopping = True

    def tick(self, now: float) -> bool:
        """Do what is due; False once there is nothing left to look after."""
        if now >= self._beat_at + HEARTBEAT:
            self._beat_at = now
            if not self._run.is_current(self._fleet.id) or self._owner_is_gone(now):
                self._stopping = True
            for agent in self._agents:
                agent.heartbeat(now)
        self._codes |= reap()
        for agent in self._agents:
            if agent.pipe is not None and agent.leash in self._codes:
                agent.ended(self._codes[agent.leash], now)
                # Whatever a leash that was killed has left is this process's own now.
                self._kill_orphans()
        # A leash that has ended since is seen at the next tick.
        leashes = self._leashes()
        self._codes = {pid: code for pid, code in self._codes.items() if pid in leashes}
        for agent in self._agents:
            if self._stopping:
                agent.stop(now)
            agent.tick(now, [other for other in self._agents if other is not agent])
        return any(agent.phase not in {"ended", "failed"} for agent in self._agents)

    def _kill_orphans(self) -> None:
        kill_all(lambda: descendants(os.getpid(), besides=self._leashes()), ended=self._codes)

    def _leashes(self) -> set[int]:
        return {agent.leash for agent in self._agents if agent.pipe is not None}

    def _owner_is_gone(self, now: float) -> bool:
        # By this machine's own clock: others may be wrong.
        if not self._fleet.attached:
            return False
        try:
            touched = self._run.owner.stat().st_mtime
        except OSError:
            return True
        if touched != self._owner[0]:
            self._owner = (touched, now)
        return now - self._owner[1] > STALE_AFTER


class Agent:
    """One agent: its engine, and what is announced of it."""

    def __init__(self, run: RunFolder, fleet: Fleet, group: Group, index: int) -> None:
        self._run = run
        self._group = group
        element, self._slot = divmod(index, group.agents_per_node)
        self._taken = fleet.gpus_before(group, element)
        self._name = group.agent_name(index)
        names = fleet.agent_names
        self._local = fleet.where == "local"
        self._first_port = first_port(str(run.path), names.index(self._name), group.port)
        self._step = len(names)
        self._began = 0.0
        self._until = 0.0
        self._errors = 0
        self._idle = 0
        self._why = ""
        self.leash = 0
        self.pipe: int | None = None
        self._state = AgentState(
            name=self._name,
            phase="restarting",
            host=socket.gethostname(),
            supervisor=os.getpid(),
            token=secrets.token_hex(8),
            since=time.time(),
        )
        self._superseded = False
        run.write_state(self._state)
        run.withdraw(self._name)  # what a machine that died has left

    @property
    def phase(self) -> Phase:
        """What it is doing."""
        return self._state.phase

    @property
    def port(self) -> int:
        """Where its engine listens, or will."""
        return self._state.port

    def heartbeat(self, now: float) -> None:
        """Give its heartbeat, and check whether its engine answers."""
        if self.phase in {"ended", "failed"}:
            return
        if self._is_superseded():
            self.stop(now)
            return
        self._run.heartbeat(self._name)
        if self.phase == "ready":
            reply = ask(self._state.address, self.port, HEALTH_PATH, within=ASKING)
            self._errors = self._errors + 1 if reply is not None and reply[0] >= 500 else 0
            if self._errors >= BROKEN_AFTER:
                self._end_engine("/health says that the engine is broken")

    def stop(self, now: float) -> None:
        """Begin to take it down: out of the hostfile, then let it finish what is in flight."""
        if self.phase in {"ended", "failed", "draining"}:
            return
        self._withdraw()
        self._until = now + (self._group.drain if self.phase == "ready" else 0.0)
        self._tell("draining" if self.pipe is not None else "ended")

    def tick(self, now: float, others: list[Agent]) -> None:
        """Do what is due."""
        if self.phase == "restarting" and now >= self._until:
            self._start(now, others)
        elif self.phase == "starting":
            reply = ask(self._state.address, self.port, HEALTH_PATH, within=ASKING)
            if reply is not None and reply[0] == 200:
                self._began = now
                if not self._is_superseded():
                    self._run.announce(self._name, self._line())
                self._tell("ready")
            elif now > self._began + self._group.ready_within:
                self._end_engine(f"not ready after {self._group.ready_within:.0f} s")
        elif self.phase == "draining" and self.pipe is not None and (now >= self._until or self._is_drained()):
            self._until = float("inf")
            self._end_engine("")

    def ended(self, code: int, now: float) -> None:
        """Take note that the engine has ended."""
        assert self.pipe is not None
        os.close(self.pipe)
        self.pipe = None
        if self.phase == "draining":
            self._tell("ended")
            return
        self._withdraw()
        tail = last_lines(self._run.log(self._name), TAIL)
        how = self._why or (f"killed by signal {code - 128}" if code > 128 else f"ended with exit code {code}")
        if self.phase == "ready" and now - self._began > STEADY_AFTER:
            self._state.restarts = 0
        self._state.reason = how + (f": {tail[-1]}" if tail else "")
        self._state.tail = tail
        if self._state.restarts >= self._group.restarts:
            self._tell("failed")
            return
        self._state.restarts += 1
        # With jitter: what one agent died of, all agents of the fleet may have died of.
        self._until = now + backoff(self._state.restarts, random.Random(), base=FIRST_PAUSE, cap=LONGEST_PAUSE)
        self._tell("restarting")

    def _start(self, now: float, others: list[Agent]) -> None:
        if self._is_superseded():  # the GPU is the other one's now
            self.stop(now)
            return
        engine = self._group.engine
        try:
            self._state.address = own_address(self._group, local=self._local)
            self._state.port = free_port(
                self._state.address, self._first_port, self._step, {other.port for other in others}
            )
            environment = os.environ | gpu_environment(self._group, self._slot, taken=self._taken)
        except ConfigError as error:
            self._state.reason = str(error)
            self._tell("failed")
            return
        environment |= {key: str(value) for key, value in engine.env.items()}
        environment |= {MARK: f"{self._run.path}:{self._name}", ADDRESS: self._state.address, PORT: str(self.port)}
        command = engine_command(engine, self._state.address, self.port)
        log = self._run.log(self._name)
        try:
            with os.fdopen(leash.open_log(log), "a", encoding="utf-8") as file:
                file.write(f"[aurora-pool] {time.strftime('%F %T')} on {self._state.host}: {command}\n")
        except OSError as error:
            self._state.reason = f"{log}: can't be written ({error.strerror})"
            self._tell("failed")
            return
        self._began = now
        self._errors = 0
        self._why = ""
        self._tell("starting")
        pipes = [other.pipe for other in others if other.pipe is not None]
        self.leash, self.pipe = leash.start(
            command, log=log, environment=environment, orphaned=self._orphaned, close=pipes
        )

    def _end_engine(self, reason: str) -> None:
        self._why = reason
        assert self.pipe is not None
        with suppress(BrokenPipeError):  # it is ending by itself just now
            os.write(self.pipe, b"t")

    def _orphaned(self) -> None:
        self._withdraw()
        self._state.reason = "its supervisor was killed"
        self._tell("failed")

    def _is_drained(self) -> bool:
        self._idle = self._idle + 1 if self._is_idle() else 0
        return self._idle >= IDLE_POLLS

    def _is_idle(self) -> bool:
        reply = ask(self._state.address, self.port, METRICS_PATH, within=ASKING)
        load = parse_load(reply[1]) if reply is not None and reply[0] == 200 else None
        if load is None:  # it has no such counters, or is too busy to tell
            return nobody_is_connected(self.port)
        return not load.running + load.waiting

    def _line(self) -> str:
        kind = self._group.engine.kind
        tags: dict[str, str] = {} if kind == "command" else {"engine": "vllm" if kind == "sim" else kind}
        tags |= {"host": self._state.host} | {key: str(value) for key, value in self._group.tags.items()}
        return format_hostfile([AgentEndpoint(self._state.address, self.port, tags)])

    def _is_superseded(self) -> bool:
        """Whether the scheduler has started another one in its place, which line and state are now."""
        if not self._superseded:
            found = self._run.state(self._name)
            self._superseded = found is not None and found[0].token != self._state.token
        return self._superseded

    def _withdraw(self) -> None:
        if not self._is_superseded():
            self._run.withdraw(self._name)

    def _tell(self, phase: Phase) -> None:
        self._state.phase = phase
        self._state.since = time.time()
        if not self._is_superseded():
            self._run.write_state(self._state)


def last_lines(log: Path, count: int) -> list[str]:
    """Give the last lines that say something of the engine that wrote last to a log, which may be long."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    _, mark, after = text.rpartition("[aurora-pool] ")
    lines = after.splitlines()[1:] if mark else after.splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]
