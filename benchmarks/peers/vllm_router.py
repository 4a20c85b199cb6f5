"""The floor's client behind vllm-router, which stands between it and all the servers as a process of its own."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp

from benchmarks.peers import floor
from benchmarks.peers.shared import Client
from tests.ports import free_ports

_PATIENCE = 30.0


@asynccontextmanager
async def open_client(urls: list[str]) -> AsyncIterator[Client]:
    """Start a router and open the client on it."""
    command = shutil.which("vllm-router", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if command is None:
        raise RuntimeError("no vllm-router command")
    port, metrics_port = free_ports(2)
    options = ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    options += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port), "--log-level", "error"]
    router = await asyncio.create_subprocess_exec(
        command, *options, "--worker-urls", *urls, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        await _ready(url, router)
        async with floor.open_client([url] * len(urls)) as client:
            versions = f"vllm-router {importlib.metadata.version('vllm-router')}, {client.versions}"
            yield replace(client, versions=versions, helper_cpu=lambda: _cpu_seconds(router.pid))
    finally:
        if router.returncode is None:
            router.kill()
        await router.wait()


async def _ready(url: str, router: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_PATIENCE), aiohttp.ClientSession() as session:
        while router.returncode is None:
            try:
                async with session.get(url + "/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError(f"vllm-router ended with code {router.returncode}")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
