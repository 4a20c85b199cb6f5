"""Bring a fleet up and take it down."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from aurora_pool.errors import ConfigError, NoAgentsError, counted
from aurora_pool.fleets.gpus import VARIABLES, free_gpus, mask
from aurora_pool.fleets.launchers import Launcher, launcher_name, make_launcher
from aurora_pool.fleets.leash import GRACE
from aurora_pool.fleets.run_folder import AgentState, Launch, RunFolder, write
from aurora_pool.fleets.spec import EngineKind, Fleet, load_fleet, make_fleet
from aurora_pool.fleets.sweep import sweep
from aurora_pool.hostfile_source import HEARTBEAT, STALE_AFTER

FIRST_POLL, POLL_EVERY = 0.05, 0.5
"""Seconds between polls of agents that are awaited: at first, and at most. Each pause is twice the last."""

SETTLING = 30.0
"""Seconds that a scheduler has to end what it was told to stop. It goes on with that alone, for its own clean-up."""


def describe_fleet(what: str, *, engine: EngineKind = "vllm", agents: int | None = None) -> Fleet:
    """Make a fleet of a YAML file's name or a model's: one agent for each free GPU of this machine, or one on its CPU.

    Raises :class:`ConfigError`, and :class:`NoAgentsError` if there are GPUs and none is free.
    """
    if what.endswith((".yaml", ".yml")):
        fleet = load_fleet(Path(what))
        return fleet if agents is None else _with_agents(fleet, agents)
    given = {"engine": {"kind": engine, "model": what}, "agents": agents or 1}
    kind, free = free_gpus() if engine != "sim" else (None, [])
    if kind is None:
        return make_fleet(given)
    if not free:
        among = f", among those of {VARIABLES[kind]}" if mask(kind) is not None else ""
        raise NoAgentsError(f"none of this machine's GPUs is free{among}")
    return make_fleet(given | {"agents": agents or len(free), "gpus_per_agent": 1, "gpus": kind})


def scripts_of(run: RunFolder, fleet: Fleet) -> Mapping[str, str]:
    """Write the script of each group, by its name. Raises :class:`ConfigError` for what can't be started so."""
    if any(character.isspace() or character in "'\"$`\\" for character in str(run.path)):
        raise ConfigError(
            f"{run.path}: expected a folder without spaces and quotes, which shells on the way would split"
        )
    launcher = make_launcher(launcher_name(fleet))
    return {group.name: launcher.script(run, fleet, group) for group in fleet.groups}


def bring_up(run: RunFolder, fleet: Fleet, *, attached: bool = False) -> None:
    """Start a fleet's agents, wherever they run, and don't wait for them; ``attached`` ones need their owner's touch.

    Raises :class:`ConfigError` if it is invalid or one is up there, and :class:`NoAgentsError` if a scheduler
    refuses; nothing is left running then.
    """
    scripts = scripts_of(run, fleet)
    run.create(msgspec.structs.replace(fleet, id=secrets.token_hex(8), attached=attached))
    launch = Launch(launcher=launcher_name(fleet), handles={})
    run.write_launch(launch)
    launcher = make_launcher(launch.launcher)
    try:
        for group in fleet.groups:
            write(run.script(fleet, group), scripts[group.name].encode())
        for group in fleet.groups:
            with _signals_held():  # between the two, nobody would know what was started
                launch.handles[group.name] = launcher.start(run, fleet, group)
                run.write_launch(launch)
    except BaseException:
        _take_down(run, launch)  # what is in the folder may lack the last handle, where it could not be written
        raise


def take_down(run: RunFolder) -> list[str]:
    """End all agents of a fleet; gives what could not be ended, and why, a line each.

    Raises :class:`ConfigError` if nothing was started in this folder.
    """
    return _take_down(run, run.launch())


def _take_down(run: RunFolder, launch: Launch) -> list[str]:
    fleet = run.last_fleet()
    launcher = make_launcher(launch.launcher)
    patience = fleet.drain + GRACE + 2 * HEARTBEAT
    handles = list(launch.handles.values())
    try:
        for handle in handles:
            launcher.stop_queued(handle)  # before any agent ends, which would make room for it
    finally:
        run.close()  # also where this process is interrupted: the agents end by themselves then
    if launcher.scheduled:
        _wait_until_ended(run, fleet, within=patience)
    problems = [problem for handle in handles for problem in launcher.stop(run, handle)]
    if fleet.where != "kubernetes":
        problems += _wait_until_ended(run, fleet, within=patience)
        if launcher.scheduled:
            _wait_for_scheduler(launcher, handles)
        left = sweep(run, within=0.0)
        if left:
            problems.append(f"processes {', '.join(map(str, left))} of this machine can't be killed")
    for name in fleet.agent_names:
        run.withdraw(name)
    if not problems:
        run.forget()
    return problems


def wait_until_ready(run: RunFolder, least: int, *, within: float | None, tell: Callable[[str], None]) -> None:
    """Wait until ``least`` agents are ready; ``tell`` hears of every change in how many are doing what.

    Raises :class:`NoAgentsError` when they can't become that many any more, or are not ``within`` seconds. Its notes
    are the last lines of an engine that has failed.
    """
    fleet = run.fleet()
    deadline = None if within is None else time.monotonic() + within
    told = ""
    for pause in _pauses():
        states = [found[0] for found in map(run.state, fleet.agent_names) if found is not None]
        counts = {
            phase: sum(state.phase == phase for state in states) for phase in ("starting", "restarting", "failed")
        }
        ready = sum(state.phase == "ready" for state in states)
        pending = len(fleet.agent_names) - len(states)
        if ready >= least:
            return
        failed = [state for state in states if state.phase in {"failed", "ended"}]
        if len(fleet.agent_names) - len(failed) < least:
            raise _failure(run, failed)
        line = ", ".join(
            f"{count} {phase}" for phase, count in {"pending": pending, **counts, "ready": ready}.items() if count
        )
        if line != told:
            told = line
            tell(f"fleet: {line}")
        if deadline is not None and time.monotonic() > deadline:
            found = counted(ready, "agent is ready", "agents are ready")
            needed = counted(least, "is needed", "are needed")
            raise NoAgentsError(f"{found}, and {needed} ({line}); see {run.path}/logs")
        time.sleep(pause)


@contextmanager
def attached(run: RunFolder, fleet: Fleet, say: Callable[[str], None]) -> Iterator[None]:
    """Bring a fleet up for as long as this context lasts. Even kill -9 of this process ends it, within 45 s."""
    if run.was_started():  # by a command that was killed
        take_down(run)
    run.path.mkdir(parents=True, exist_ok=True)
    with run.owned():
        bring_up(run, fleet, attached=True)
        try:
            yield
        finally:
            say("taking the fleet down")
            for problem in take_down(run):
                say(f"not ended: {problem}")


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let what would end this process wait for the end of this context. What it starts is not changed by that."""
    caught: list[int] = []
    before: dict[int, Any] = {}
    holding = True

    def hold(number: int, _: object) -> None:
        if holding:
            caught.append(number)
        else:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    try:
        if threading.current_thread() is threading.main_thread():  # no other thread can be interrupted
            for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(ending) not in {signal.SIG_IGN, None}:  # nohup, or no handler of Python's
                    before[ending] = signal.getsignal(ending)
                    signal.signal(ending, hold)
        yield
    finally:
        holding = False  # each signal does again what it did before, wherever one comes from here on
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in caught:
            signal.raise_signal(late)


def _wait_until_ended(run: RunFolder, fleet: Fleet, *, within: float) -> list[str]:
    deadline = time.monotonic() + within
    for pause in _pauses():
        found = [state for state in map(run.state, fleet.agent_names) if state is not None]
        alive = [state for state, age in found if state.phase not in {"ended", "failed"} and age <= STALE_AFTER]
        if not alive:
            break
        if time.monotonic() > deadline:
            return [f"{state.name} on {state.host}: {state.phase} still" for state in alive]
        time.sleep(pause)
    return []


def _wait_for_scheduler(launcher: Launcher, handles: list[list[str]]) -> None:
    # What it was about to start when it was told to stop may begin after that, and end.
    deadline = time.monotonic() + SETTLING
    for pause in _pauses():
        if time.monotonic() > deadline or not any(map(launcher.waiting, handles)):
            return
        time.sleep(pause)


def _pauses() -> Iterator[float]:
    pause = FIRST_POLL
    while True:
        yield pause
        pause = min(POLL_EVERY, 2 * pause)


def _failure(run: RunFolder, failed: list[AgentState]) -> NoAgentsError:
    first = next((state for state in failed if state.reason), None)
    if first is None:
        return NoAgentsError("the agents have ended before they were ready")
    count = f"{len(failed)} agent{'s have' if len(failed) > 1 else ' has'} failed"
    where = "below is the end of" if first.tail else "see"
    error = NoAgentsError(f"{count}; {first.name} on {first.host}: {first.reason}; {where} {run.log(first.name)}")
    for line in first.tail:
        error.add_note(line)
    return error


def _with_agents(fleet: Fleet, agents: int) -> Fleet:
    if len(fleet.groups) > 1:
        raise ConfigError("--agents: the fleet has several groups; set agents in the file")
    (group,) = fleet.groups
    per_node = agents if fleet.where == "local" else group.agents_per_node
    return msgspec.structs.replace(
        fleet, groups=[msgspec.structs.replace(group, agents=agents, agents_per_node=per_node)]
    )
