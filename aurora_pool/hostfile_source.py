"""Read hostfiles from where they are: a file, a folder of announcements, or a name with several addresses.

- A file holds one agent a line.
- In a folder, such as the ``agents.d`` of a fleet, each file holds the line of one agent, which touches it every
  :data:`HEARTBEAT` seconds. Lines that were not touched for :data:`STALE_AFTER` seconds don't count: their machine is
  gone. Files that begin with a dot are being written.
- ``dns://name:port`` stands for all addresses of a name, ``k8s://service.namespace:port`` for those of the pods behind
  a headless service, of which Kubernetes names only those that are ready.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aurora_pool.arguments import check_instance
from aurora_pool.errors import HostfileError
from aurora_pool.hostfile import AgentEndpoint, identity, parse_hostfile_text

__all__ = ["HEARTBEAT", "STALE_AFTER", "is_followed_by_reading", "parse_hostfile"]

HEARTBEAT = 10.0
"""Seconds between the heartbeats of an agent."""

STALE_AFTER = 3 * HEARTBEAT
"""Seconds without a heartbeat after which an agent's line does not count."""

# One slash is what is left where the name went through a path.
_NAME = re.compile(r"(?P<kind>dns|k8s):/{1,2}(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*):(?P<port>[0-9]{1,5})/?")
_NAMED = re.compile(r"(dns|k8s):/")


@dataclass(frozen=True, slots=True)
class _SourceText:
    """A piece of a hostfile, and what to call it in errors."""

    path: str
    text: str


def is_followed_by_reading(path: str | Path) -> bool:
    """Whether only reading tells if something has changed: a folder's files come and go, a name's addresses too."""
    return _NAMED.match(str(path)) is not None or Path(path).is_dir()


def parse_hostfile(path: str | Path) -> list[AgentEndpoint]:
    """Read a hostfile: a file, a folder of announcements, ``dns://name:port`` or ``k8s://service.namespace:port``.

    Returns its agents in the order of the file, which has one a line: a host, or several as in ``gpu[01-16]``, then a
    port and ``key=value`` tags if need be, as in ``gpu02 8001 tier=large``. In a folder, files that nobody has touched
    for 30 seconds don't count.

    Raises :class:`HostfileError`, which names the file and the line, for a
    missing or empty file, a bad host, port or tag, and an agent that is listed twice with other tags. One that
    is merely listed again counts once, with a warning.

    >>> parse_hostfile("hostfiles/one-host.hostfile")  # doctest: +SKIP
    [AgentEndpoint(host='localhost', port=8000, ...)]
    """
    check_instance("path", path, str | Path, optional=False)
    if path == "":
        raise HostfileError("expected the path of a file or a folder, or a name, got ''")  # a Path of it is this folder
    found = [each for source in _read_source(path) for each in parse_hostfile_text(source.text, path=source.path)]
    # Twice only in a folder: a server's successor listens where it did, and its own line is not stale yet.
    return list({identity(endpoint): endpoint for endpoint in found}.values())


def _read_source(path: str | Path) -> Sequence[_SourceText]:
    """Read what stands behind a hostfile's path, in its order; the files of a folder in the order of their names.

    Raises :class:`HostfileError` if it can't be read, or if it is a folder or a name behind which nobody is.
    """
    if _NAMED.match(str(path)):
        return [_SourceText(str(path), _lookup(str(path)))]
    try:
        if Path(path).is_dir():
            return _read_folder(Path(path), time.time())
        return [_SourceText(str(path), Path(path).read_text(encoding="utf-8-sig"))]
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise HostfileError(f"can't be read ({reason}); expected a text file, one agent a line", path=path) from error


def _read_folder(folder: Path, now: float) -> list[_SourceText]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    found: list[_SourceText] = []
    stale = 0
    for name in names:
        try:
            status = os.stat(folder / name)  # noqa: PTH116 - with 4,000 files a Path for each is felt
            if not stat.S_ISREG(status.st_mode):
                continue
            if now - status.st_mtime > STALE_AFTER:
                stale += 1
                continue
            found.append(_SourceText(str(folder / name), (folder / name).read_text(encoding="utf-8-sig")))
        except FileNotFoundError:
            continue  # withdrawn since the folder was listed
    if found:
        return found
    if stale:
        reason = (
            f"all agents in it have given no heartbeat for {STALE_AFTER:.0f} s or longer; expected them to touch their "
            f"files every {HEARTBEAT:.0f} s (or the clocks of this machine and theirs differ)"
        )
        raise HostfileError(reason, path=folder)
    raise HostfileError("no agent in it; expected a file with one line for each agent", path=folder)


def _lookup(address: str) -> str:
    match = _NAME.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise HostfileError("expected dns://name:port or k8s://service.namespace:port", path=address)
    name = match["name"]
    if match["kind"] == "k8s":
        if name.count(".") != 1:
            raise HostfileError("expected k8s://service.namespace:port", path=address)
        name += ".svc"
    try:
        found = socket.getaddrinfo(name, int(match["port"]), type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostfileError(f"the name {name} has no address ({error.strerror})", path=address) from error
    addresses = sorted({str(entry[4][0]) for entry in found})
    return "".join(f"[{each}]:{match['port']}\n" if ":" in each else f"{each} {match['port']}\n" for each in addresses)
