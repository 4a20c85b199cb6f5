"""Ports for servers that bind them themselves, later."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

LOWEST, END = 28_000, 32_700
"""Above those of fleets, below those that the kernel gives to clients, so that nobody takes one before its server."""


def free_ports(count: int) -> list[int]:
    """Find consecutive ports of the loopback that nothing is bound to; not the lowest: others may look at once."""
    for first in random.sample(range(LOWEST, END - count), 1000):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return [*range(first, first + count)]
    raise OSError("no free ports")


def free_port() -> int:
    """Find a port of the loopback that nothing is bound to."""
    return free_ports(1)[0]
