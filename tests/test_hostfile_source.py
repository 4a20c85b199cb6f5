"""Where hostfiles come from beside files: folders of announcements, names with several addresses."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path

import pytest

from aurora_pool import AgentEndpoint, HostfileError, parse_hostfile
from aurora_pool.cli.fleet import watch_hostfile
from aurora_pool.hostfile_source import STALE_AFTER
from aurora_pool.testing.clock import run_simulated


def announce(folder: Path, name: str, line: str, *, age: float = 0.0) -> None:
    """Write one agent's file, whose last heartbeat is ``age`` seconds ago."""
    (folder / name).write_text(f"{line}\n")
    touched = time.time() - age
    os.utime(folder / name, (touched, touched))


def test_a_folder_holds_a_line_for_each_agent_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name, line in (("b", "gpu02 8001 tier=large"), ("a", "gpu01 8000"), (".c.17", "half writ")):
        announce(tmp_path, name, line)
    (tmp_path / "d").mkdir()
    assert parse_hostfile(tmp_path) == [AgentEndpoint("gpu01", 8000), AgentEndpoint("gpu02", 8001, {"tier": "large"})]


def test_an_agent_without_a_heartbeat_does_not_count(tmp_path: Path) -> None:
    announce(tmp_path, "a", "gpu01", age=STALE_AFTER - 5)
    announce(tmp_path, "b", "gpu02", age=STALE_AFTER + 5)
    assert [endpoint.host for endpoint in parse_hostfile(tmp_path)] == ["gpu01"]


def test_a_server_that_came_where_another_was_counts_once(tmp_path: Path) -> None:
    announce(tmp_path, "a", "gpu01 8000", age=5)
    announce(tmp_path, "b", "gpu01 8000")
    assert len(parse_hostfile(tmp_path)) == 1


def test_a_folder_without_agents_says_why(tmp_path: Path) -> None:
    with pytest.raises(HostfileError, match="no agent in it"):
        parse_hostfile(tmp_path)
    announce(tmp_path, "a", "gpu01", age=3600)
    with pytest.raises(HostfileError, match=r"no heartbeat for 30 s or longer.*clocks"):
        parse_hostfile(tmp_path)


def test_a_wrong_line_is_told_with_its_own_file(tmp_path: Path) -> None:
    announce(tmp_path, "a", "gpu01 99999")
    with pytest.raises(HostfileError) as raised:
        parse_hostfile(tmp_path)
    assert (raised.value.path, raised.value.line) == (str(tmp_path / "a"), 1)


def test_a_folder_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[list[str]] = []
    announce(tmp_path, "a", "gpu01")

    async def change() -> None:
        known = [AgentEndpoint("gpu00")]  # as it was when the pool was made; what came since then is news
        task = asyncio.create_task(
            watch_hostfile(tmp_path, lambda found: seen.append([each.host for each in found]), known=known)
        )
        await asyncio.sleep(5)
        announce(tmp_path, "b", "gpu02")
        await asyncio.sleep(5)
        announce(tmp_path, "b", "gpu02")  # again, which is no news
        await asyncio.sleep(5)
        announce(tmp_path, "a", "gpu01", age=60)
        await asyncio.sleep(5)
        (tmp_path / "b").unlink()
        await asyncio.sleep(20)
        task.cancel()

    run_simulated(change())
    assert seen == [["gpu01"], ["gpu01", "gpu02"], ["gpu02"]]
    assert len(caplog.records) == 1  # nobody is left: told once, and the agents of before stay


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def lookup(name: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        asked.append((name, port))
        if "missing" in name:
            raise socket.gaierror(-2, "Name or service not known")
        found = ("10.0.0.2", "10.0.0.1", "fd00::1", "10.0.0.2")
        return [(0, 0, 0, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    expected = ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"]
    assert [str(endpoint) for endpoint in parse_hostfile("dns://vllm.example:8000")] == expected
    assert [str(endpoint) for endpoint in parse_hostfile("k8s://vllm.prod:8000")] == expected
    assert [str(endpoint) for endpoint in parse_hostfile(Path("dns://vllm.example:8000"))] == expected
    assert asked == [("vllm.example", 8000), ("vllm.prod.svc", 8000), ("vllm.example", 8000)]
    with pytest.raises(HostfileError, match="the name missing has no address"):
        parse_hostfile("dns://missing:8000")


@pytest.mark.parametrize("address", ["dns://name", "dns://name:99999", "dns://:80", "k8s://name:80", "k8s://a.b.c:80"])
def test_a_wrong_name_is_told(address: str) -> None:
    with pytest.raises(HostfileError, match=r"expected (dns://name:port or )?k8s://service.namespace:port"):
        parse_hostfile(address)


def test_a_name_of_this_machine_is_looked_up_for_real() -> None:
    assert AgentEndpoint("127.0.0.1", 8000) in parse_hostfile("dns://localhost:8000")
