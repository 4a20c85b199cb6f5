"""Who is alive in a folder on a shared file system, by heartbeats that need no clock in common.

Each member has a file that it replaces every few seconds; each file holds a number that grows. A reader notes, on its
own monotonic clock, for how long a number has stood still: no time stamp is compared, so the clocks of machines and of
the file server may differ by any amount (on Lustre it is the clients that set time stamps, on NFS the server). Nothing
needs a lock: what a file system has to do is create a name once (:func:`claim_name`) and replace a file as a whole.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from aurora_pool.errors import JobError
from aurora_pool.own_files import open_own

BEATS = 6
"""How many beats fit into the time without one after which a member is taken for dead."""

SAFE_SHARE = 0.5
"""For how much of that time after a beat a member may rely on being taken for alive: clocks may run apart twofold."""


def claim_name(path: Path, holder: str) -> bool:
    """Create ``path`` for ``holder`` if no other has; say whether it is the holder's now.

    It is a symbolic link whose text is the holder's name: made in one step on every POSIX file system, NFS and Lustre
    included, and only by one. A server that has made it and whose reply was lost is asked again what the link says.
    """
    try:
        path.symlink_to(holder)
    except FileExistsError:
        return holder_of(path) == holder
    return True


def holder_of(path: Path) -> str | None:
    """Whose ``path`` is; None if it is nobody's."""
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return None


def process_name() -> str:
    """A name for this process that no other on any machine has.

    >>> process_name()  # doctest: +SKIP
    'gpu01-4242-9f86d0'
    """
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


class Roster:
    """The members of one folder. One without a heartbeat for ``takeover_after`` seconds is taken for dead.

    :meth:`beat` and :meth:`refresh` touch the file system, and belong into a thread where an event loop runs.
    Raises :class:`~aurora_pool.errors.JobError` if the folder can't be used.
    """

    def __init__(
        self, folder: Path, *, takeover_after: float = 30.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.name = process_name()
        self.every = takeover_after / BEATS
        self._takeover_after = takeover_after
        self._now = now
        self.lapses = 0
        """How often a beat came too late to be sure that nobody has taken us for dead."""
        self._beats = 0
        self._beating = threading.Lock()
        self._beaten_at = -float("inf")
        self._refreshed_at = now()
        self._seen: dict[str, tuple[str, float]] = {}
        """By member, what its file said and for how long it has said so, in seconds of our own refreshes."""
        self._notes: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobError(f"{folder}: the folder can't be used ({error.strerror})") from error

    @property
    def others(self) -> Mapping[str, str]:
        """The notes of the other members that are alive, by name, as of the last refresh."""
        return MappingProxyType(self._notes)

    @property
    def safe(self) -> bool:
        """Whether nobody can have taken us for dead: our last beat is young enough."""
        return self._now() - self._beaten_at < SAFE_SHARE * self._takeover_after

    def beat(self, note: str = "") -> None:
        """Say that we are alive, and ``note``. Raises OSError."""
        with self._beating:
            began = self._now()
            self.lapses += not self.safe
            self._beats += 1
            fresh = self.folder / f".{self.name}"
            with os.fdopen(open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
                file.write(f"{self._beats}\n{note}")
            fresh.replace(self.folder / self.name)
            self._beaten_at = began

    def refresh(self) -> None:
        """Read the others' files. The file of one without a heartbeat for too long is removed. Raises OSError."""
        now = self._now()
        # However long this process or the file system stood still, it is one refresh: only what was read counts.
        passed = min(now - self._refreshed_at, 2 * self.every)
        self._refreshed_at = now
        seen: dict[str, tuple[str, float]] = {}
        notes: dict[str, str] = {}
        for name in sorted(os.listdir(self.folder)):  # noqa: PTH208 - names are all that is wanted
            if name == self.name or name.startswith("."):
                continue
            path = self.folder / name
            try:
                # Opened, not only stat-ed: NFS asks the server then, and its caches may be a minute old otherwise.
                text = path.read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                continue
            before, idle = self._seen.get(name, ("", 0.0))
            idle = idle + passed if text == before else 0.0
            if idle >= self._takeover_after:
                path.unlink(missing_ok=True)  # so that nobody else has to wait as long
                continue
            seen[name] = text, idle
            notes[name] = text.partition("\n")[2]
        self._seen, self._notes = seen, notes

    def is_alive(self, name: str) -> bool:
        """Whether a member was alive at the last refresh, or is ourselves."""
        return name == self.name or name in self._notes

    def leave(self) -> None:
        """Say that we are gone; the others need not wait to be sure."""
        for path in (self.folder / self.name, self.folder / f".{self.name}"):
            try:
                path.unlink(missing_ok=True)
            except OSError:
                return  # they will find out
