"""Addresses and ports on this machine, and small questions to a server on it."""

from __future__ import annotations

import fcntl
import http.client
import socket
import struct
import zlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from aurora_pool.errors import ConfigError
from aurora_pool.fleets.spec import Group

_SIOCGIFADDR = 0x8915
_CONNECTED, _LISTENS = {"01", "03"}, "0A"
"""States of a connection in /proc/net/tcp: established or being so (SYN_RECV), and waited for."""
_FIRST_PORT = 20_000
_PORTS = 8_000
"""Ports from 20,000 to 28,000: below those that the kernel gives to clients."""


def own_address(group: Group, *, local: bool) -> str:
    """Find the address that others reach this machine at. Raises :class:`ConfigError` for an unknown interface."""
    if group.network:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("256s", group.network[:15].encode())
            try:
                reply = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError as error:
                known = ", ".join(name for _, name in socket.if_nameindex())
                raise ConfigError(
                    f"network: no interface {group.network!r} with an address on {socket.gethostname()}; it has {known}"
                ) from error
            return socket.inet_ntoa(reply[20:24])
    if local:
        return "127.0.0.1"
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        address = "127.0.0.1"
    if not address.startswith("127."):
        return address
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing: it only chooses a route
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return address


def first_port(fleet: str, index: int, chosen: int) -> int:
    """Give the port that an agent tries first: its own, so that agents of one machine don't race for one.

    >>> first_port("/scratch/fleet.run", 3, 8000)
    8003
    """
    return chosen + index if chosen else _FIRST_PORT + (zlib.crc32(fleet.encode()) + index) % _PORTS


def free_port(address: str, first: int, step: int, taken: Collection[int] = ()) -> int:
    """Find a port that nothing is bound to, by binding it, from ``first`` on in steps.

    Raises :class:`ConfigError` if there is none.
    """
    for port in range(first, 65_536, max(1, step)):
        if port in taken:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise ConfigError(f"no free port on {address} from {first} on")


def nobody_is_connected(port: int) -> bool:
    """Tell whether a server of this machine has no connection; False too if the kernel does not show the server."""
    states = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for row in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = row.split()
                if int(local.rpartition(":")[2], 16) == port:
                    states.add(state)
    return _LISTENS in states and not _CONNECTED & states


def ask(address: str, port: int, path: str, *, within: float) -> tuple[int, bytes] | None:
    """Make a GET; gives its status and body, None where no server answers in time.

    >>> ask("127.0.0.1", 9, "/health", within=1.0) is None
    True
    """
    connection = http.client.HTTPConnection(address, port, timeout=within)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
