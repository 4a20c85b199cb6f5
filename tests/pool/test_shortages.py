"""What goes wrong on this side is not the agents' fault: too few open files, a name that has moved."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import AgentEndpoint, PromptOptions, Timeouts, VLLMPool
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.forked import simulated
from tests.pool.running import running

CLIENT = """
import asyncio, json, logging, resource, sys
from aurora_pool import VLLMPool
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
told = []
class Telling(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
logging.getLogger("aurora_pool").addHandler(Telling())
async def main():
    async with VLLMPool.from_hostfile(sys.argv[1], connector_limit=None) as pool:
        files = [open(sys.argv[1]) for _ in range(100)]  # others in the process need some too
        responses = await pool.send_all([f"p{i}" for i in range(600)], max_tokens=8)
        failures = [dict(agent.failures) for agent in pool.statistics().agents]
        print(json.dumps([sum(r.success for r in responses), failures, told]))
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_too_few_open_files_slow_the_sending_down_and_blame_nobody(tmp_path: Path) -> None:
    with simulated(tmp_path, "--agents", "2", "--instant") as hostfile:
        ended = subprocess.run(
            [sys.executable, "-c", CLIENT, str(hostfile)], capture_output=True, text=True, check=True, timeout=100
        )
    answered, failures, told = json.loads(ended.stdout)
    assert (answered, failures) == (600, [{}, {}])
    assert [message for message in told if "files" not in message] == []
    assert len(told) == 1


@pytest.mark.simulated_clock
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_a_shortage_that_passes_costs_no_attempt(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(2) as (_, pool):
        await asyncio.sleep(60.0)  # no connection is kept so long
        plain = socket.socket

        def short(*arguments: Any, **options: Any) -> socket.socket:
            if asyncio.get_running_loop().time() < 90.0:
                raise OSError(number, "Too many open files")
            return plain(*arguments, **options)

        monkeypatch.setattr(socket, "socket", short)
        responses = await pool.send_all_batched(["a", "b"], max_tokens=4)
        assert [(response.success, response.attempts) for response in responses] == [(True, 1)] * 2
        assert [dict(agent.failures) for agent in pool.statistics().agents] == [{}, {}]


@pytest.mark.simulated_clock
async def test_a_name_that_has_moved_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(self: object, host: str, port: int, **options: Any) -> Any:
        where = address if host == "moving.test" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (where, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
    raw = PromptOptions(prompt_format="raw")
    profile = AgentProfile(instant=True)
    with socket.socket() as keeper:  # of the port, between the fleets
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("0.0.0.0", 0))  # noqa: S104 - it does not listen
        port = keeper.getsockname()[1]
        pool = VLLMPool([AgentEndpoint("moving.test", port)], prompting=raw, timeouts=Timeouts(patience=30.0))
        for address in ("127.0.0.1", "127.0.0.2"):
            async with SimulatedFleet(1, profile=profile, ports=[port], host=address):
                (response,) = await pool.send_all_batched(["a"], max_tokens=4)
                assert response.success, response.error
        await pool.close()


@pytest.mark.simulated_clock
@pytest.mark.parametrize("connect", [3.0, 20.0], ids=["its own limit", "the limit of a probe"])
async def test_a_name_of_a_machine_that_is_gone_is_looked_up_anew(
    connect: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[str] = []

    async def lookup(self: object, host: str, port: int, **options: Any) -> Any:
        where = "127.0.0.2" if host == "moving.test" and lookups else "127.0.0.1"
        lookups.append(where)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (where, port))]

    with contextlib.ExitStack() as sockets:
        # A listener whose backlog is full: the kernel drops what comes, as if nobody were there.
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        raw = PromptOptions(prompt_format="raw")
        timeouts = Timeouts(connect=connect, probe=5.0, patience=60.0)
        async with SimulatedFleet(1, profile=AgentProfile(instant=True), ports=[port], host="127.0.0.2"):
            monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", lookup)
            async with VLLMPool([AgentEndpoint("moving.test", port)], prompting=raw, timeouts=timeouts) as pool:
                (response,) = await pool.send_all_batched(["a"], max_tokens=4)
                assert response.success, response.error
    assert lookups[0] == "127.0.0.1"
