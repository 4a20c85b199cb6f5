"""The processes of ``benchmarks.serve``: agents, servers, and what they cost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.ports import free_port

AURORA_POOL = [sys.executable, "-m", "aurora_pool"]


class Process:
    """A process that is measured from outside."""

    def __init__(self, command: list[str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        told = None if os.environ.get("DEBUG") else subprocess.DEVNULL
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # it asks the internet for it otherwise
        self._process = subprocess.Popen(command, stdout=told, stderr=told, env=environment)

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    @property
    def cpu(self) -> float:
        """Seconds of CPU that its threads have used, as the scheduler counts them."""
        threads = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    @property
    def peak(self) -> float:
        """MiB that it has had in memory at most."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def fleet(folder: Path, *options: str) -> Iterator[Path]:
    """Simulated agents in a process of their own; gives their hostfile."""
    hostfile = folder / "fleet.hostfile"
    command = [*AURORA_POOL, "sim", "-o", str(hostfile), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL if not os.environ.get("DEBUG") else None)
    try:
        while not hostfile.exists():
            time.sleep(0.05)
        yield hostfile
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def server(folder: Path, hostfile: Path, *options: str) -> Iterator[Process]:
    """The server under measurement."""
    port = free_port()
    data = str(folder / f"data-{port}")
    command = [*AURORA_POOL, "serve", "--hostfile", str(hostfile), "--data", data, "--port", str(port), *options]
    process = Process(command, port)
    try:
        yield process
    finally:
        process.stop()


async def ready(*processes: Process) -> None:
    """Wait until servers answer."""
    async with aiohttp.ClientSession() as session:
        for process in processes:
            while True:
                try:
                    async with session.get(f"{process.url}/v1/models") as reply:
                        if reply.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                if process.ended:
                    sys.exit(f"{process.url}: it ended before it was ready (DEBUG=1 shows what it says)")
                await asyncio.sleep(0.1)
