"""The folder of a running fleet: what its processes and its onlookers tell each other.

::

    fleet.json      what was asked for; a supervisor whose fleet.json is gone, or another fleet's, takes its agents down
    launch.json     what was started to get it: process, job or hosts
    NAME.sh         the script of each group
    agents.d/NAME   the hostfile line of an agent that is ready; touched every 10 s
    state/NAME      what an agent is doing, as JSON; touched every 10 s
    logs/NAME.log   what its engine wrote
    owner           touched every 10 s by the command that the fleet belongs to, if it belongs to one

All of it is written under another name and then renamed, so a reader sees nothing half-written. On many machines it
must be on a file system that they share.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from aurora_pool.errors import ConfigError
from aurora_pool.fleets.spec import Fleet, Group
from aurora_pool.hostfile_source import HEARTBEAT
from aurora_pool.own_files import replacement

_Kind = TypeVar("_Kind")

Phase = Literal["starting", "ready", "draining", "restarting", "failed", "ended"]


class AgentState(msgspec.Struct, kw_only=True):
    """What one agent is doing; ``since`` and all times are seconds since 1970.

    ``supervisor`` is the process that looks after it, on machine ``host``, with a ``token`` that nobody else has.
    ``reason`` says why it failed last, ``tail`` is the end of its log then.
    """

    name: str
    phase: Phase = "starting"
    since: float = 0.0
    host: str = ""
    address: str = ""
    port: int = 0
    supervisor: int = 0
    token: str = ""
    restarts: int = 0
    reason: str = ""
    tail: list[str] = []


class Launch(msgspec.Struct):
    """What was started to bring a fleet up: by which launcher, and for each group what that needs to find it again."""

    launcher: str
    handles: dict[str, list[str]]


@dataclass(frozen=True)
class RunFolder:
    """The files of one fleet."""

    path: Path

    @property
    def agents(self) -> Path:
        """The folder that is the fleet's hostfile."""
        return self.path / "agents.d"

    def log(self, name: str) -> Path:
        """The log of an agent."""
        return self.path / "logs" / f"{name}.log"

    def script(self, fleet: Fleet, group: Group) -> Path:
        """The script of a group; in Kubernetes, its manifest."""
        return self.path / f"{group.name}.{'yaml' if fleet.where == 'kubernetes' else 'sh'}"

    def create(self, fleet: Fleet) -> None:
        """Begin anew. Raises :class:`ConfigError` if a fleet is up in this folder, or it can't be made."""
        if self.was_started():
            raise ConfigError(f"{self.path}: a fleet is up in it; take it down first: aurora-pool down {self.path}")
        try:
            for old in (self.agents, self.path / "state"):
                shutil.rmtree(old, ignore_errors=True)
            for folder in (self.agents, self.path / "state", self.path / "logs"):
                folder.mkdir(parents=True, exist_ok=True)
            write(self._fleet_file, msgspec.json.encode(fleet))
        except OSError as error:
            raise ConfigError(f"{self.path}: can't be written ({error.strerror})") from error

    def close(self) -> None:
        """Say that the fleet is to end: its supervisors see it within a heartbeat, wherever they are."""
        with suppress(FileNotFoundError):
            self._fleet_file.rename(self._ended_file)

    def fleet(self) -> Fleet:
        """What was asked for. Raises :class:`ConfigError` if no fleet is up."""
        return _read(self._fleet_file, Fleet, f"{self.path}: no fleet is up in it")

    def last_fleet(self) -> Fleet:
        """What was asked for, even if it is to end already."""
        return self.fleet() if self._fleet_file.exists() else _read(self._ended_file, Fleet, f"{self.path}: no fleet")

    def is_current(self, fleet_id: str) -> bool:
        """Whether the fleet of that id is still wanted."""
        try:
            return self.fleet().id == fleet_id
        except ConfigError:
            return False

    def write_launch(self, launch: Launch) -> None:
        """Keep what was started."""
        write(self._launch_file, msgspec.json.encode(launch))

    def was_started(self) -> bool:
        """Whether something was started that has not been taken down wholly."""
        return self._launch_file.exists()

    def forget(self) -> None:
        """Say that nothing of what was started is left."""
        self._launch_file.unlink(missing_ok=True)

    def launch(self) -> Launch:
        """What was started. Raises :class:`ConfigError` if nothing was."""
        return _read(self._launch_file, Launch, f"{self.path}: nothing was started from it")

    def write_state(self, state: AgentState) -> None:
        """Tell what an agent is doing."""
        write(self.path / "state" / state.name, msgspec.json.encode(state))

    def state(self, name: str) -> tuple[AgentState, float] | None:
        """What an agent is doing, and how many seconds ago it last said so; None if it never has."""
        file = self.path / "state" / name
        try:
            age = time.time() - file.stat().st_mtime
            return msgspec.json.decode(file.read_bytes(), type=AgentState), age
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def announce(self, name: str, line: str) -> None:
        """Put an agent's line into the hostfile."""
        write(self.agents / name, line.encode())

    def withdraw(self, name: str) -> None:
        """Take an agent's line out of the hostfile."""
        (self.agents / name).unlink(missing_ok=True)

    def heartbeat(self, name: str) -> None:
        """Say that an agent is still looked after; what it has not announced is not made by this."""
        for file in (self.agents / name, self.path / "state" / name):
            with suppress(FileNotFoundError):
                os.utime(file)

    @property
    def _fleet_file(self) -> Path:
        return self.path / "fleet.json"

    @property
    def _launch_file(self) -> Path:
        return self.path / "launch.json"

    @property
    def _ended_file(self) -> Path:
        return self.path / "fleet.ended.json"

    # -- the command that a fleet belongs to ----------------------------------------------------------------------

    @property
    def owner(self) -> Path:
        """The file that the command touches to which this fleet belongs."""
        return self.path / "owner"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Touch the owner's file for as long as this context lasts: kill -9 of this process ends the fleet too then."""
        done = threading.Event()

        def touch() -> None:
            while not done.is_set():
                with suppress(OSError):
                    self.owner.touch()
                done.wait(HEARTBEAT)

        self.owner.touch()
        thread = threading.Thread(target=touch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.owner.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing."""
    with replacement(path) as file:
        file.write(content)


def _read(path: Path, kind: type[_Kind], missing: str) -> _Kind:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ConfigError(missing) from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: can't be read ({error})") from error
