"""A server that repeats the key it was sent, and writes to the terminal, gets neither through any command."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import Timeouts, VLLMPool, parse_hostfile
from aurora_pool.fleets.run_folder import AgentState, Launch, RunFolder
from aurora_pool.fleets.spec import make_fleet
from tests.cli.conftest import COMMAND, Call
from tests.forked import on_terminal
from tests.tied import tied

KEY = "sk-canary-0123456789abcdef"
EVIL = "\x1b]0;owned\x1b[2J"
COMMANDS = {
    "run": ("run", "in.jsonl", "-o", "out.jsonl", "--model", "m", "--patience", "0.1"),
    "ask": ("ask", "Hello", "--model", "m", "--patience", "0.1"),
    "summarize": ("summarize", "in.jsonl", "--model", "m", "--patience", "0.1"),
    "check": ("check",),
    "check as JSON": ("check", "--json"),
    "wait": ("wait", "--timeout", "0.1"),
    "top": ("top", "--once", "--every", "0.2"),
}


class Repeating(BaseHTTPRequestHandler):
    """Repeats in every error, and in the names that it gives, what it was sent."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it would wait 40 ms between a head and a body
    status = 0

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = f"the key {self.headers['Authorization']} {EVIL}[link=x]here[/y]"
        if self.path == "/v1/models" and self.status in (200, 400):
            names = [{"id": "m"}, *([{"id": said}] if self.status == 200 else [])]
            self._answer(200, {"data": names})
        elif self.status == 200:
            choice = {"index": 0, "text": "a", "message": {"content": "a"}, "finish_reason": said}
            self._answer(200, {"model": said, "version": said, "system_fingerprint": said, "choices": [choice]})
        else:
            self._answer(self.status, {"error": {"message": said}})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Date", "no date")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repeating)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_the_key_or_lets_a_server_write_to_the_terminal(
    command: str, status: int, port: int, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", KEY)
    monkeypatch.setattr(Repeating, "status", status)
    Path("h").write_text(f"127.0.0.1 {port} api_key_env=CANARY\n")
    Path("in.jsonl").write_text('{"prompt": "a", "max_tokens": 4}\n')
    ended = call(*COMMANDS[command], "--hostfile", "h")
    written = "".join(path.read_text() for path in tmp_path.glob("out.*"))
    assert KEY not in ended.out + ended.err + written
    assert "\x1b" not in ended.out + ended.err
    assert "Traceback" not in ended.err
    if command == "run":
        told = call("report", "out.jsonl")
        assert KEY not in told.out + told.err
        assert "\x1b" not in told.out + told.err


@pytest.mark.parametrize("status", [200, 400, 401, 500])
async def test_no_error_endpoint_or_traceback_shows_the_key(
    status: int, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CANARY", KEY)
    monkeypatch.setattr(Repeating, "status", status)
    hostfile = tmp_path / "h"
    hostfile.write_text(f"127.0.0.1 {port} api_key_env=CANARY\n")
    endpoints = parse_hostfile(hostfile)
    shown: list[Any] = [endpoints, *map(str, endpoints)]
    pool = VLLMPool(endpoints, model="m", max_tokens=4, timeouts=Timeouts(patience=0.1))
    try:
        async with pool:
            responses = await pool.send_all_batched(["a"])
            shown += [pool, pool.statistics()]
            for response in responses:
                shown.append(response.error)  # the text of an answer is data, and stays as it is
                response.raise_for_status()
    except Exception as error:  # noqa: BLE001 - whichever it is
        shown += [error, *traceback.format_exception(error)]
    assert len(shown) > 2
    assert KEY not in "".join(map(repr, shown)) + caplog.text


def answered(url: str, content: object = None) -> tuple[int, str]:
    """The status of a reply, and its headers and body."""
    sent = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, sent, {"Content-Type": "application/json"})  # noqa: S310 - of this test
    try:
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            return reply.status, f"{reply.headers}{reply.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return error.code, f"{error.headers}{error.read().decode()}"


def test_the_server_and_its_commands_show_no_key_and_write_nothing_to_the_terminal(
    port: int, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", KEY)
    monkeypatch.setattr(Repeating, "status", 400)
    Path("h").write_text(f"127.0.0.1 {port} api_key_env=CANARY\n")
    body = {"model": "m", "prompt": "a", "max_tokens": 4}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    Path("in.jsonl").write_text(json.dumps(line) + "\n")
    serve = [*tied(), *COMMAND, "serve", "--hostfile", "h", "--data", "data", "--port", "0", "--patience", "0.3"]
    shown = ""
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        log = next((line for line in server.stderr if " serves " in line), "")
        url = log.partition(" serves ")[0].split()[-1]
        monkeypatch.setenv("AURORA_POOL_SERVER", url)
        batch = ""
        while answered(f"{url}/v1/models")[0] != 200:
            time.sleep(0.05)
        for status in (400, 401):
            monkeypatch.setattr(Repeating, "status", status)
            for path in ("completions", "chat/completions"):
                content = body | {"messages": [{"role": "user", "content": "a"}]}
                code, text = answered(f"{url}/v1/{path}", content)
                assert code >= 400
                shown += text
            if status == 400:
                for command in (("submit", "in.jsonl", "--watch", "-o", "out.jsonl"), ("jobs",)):
                    ended = call(*command)
                    batch = batch or ended.out.strip()
                    shown += ended.out + ended.err
                ended = call("fetch", batch, "-o", "again.jsonl")
                shown += ended.out + ended.err
        server.terminate()
        log += server.stderr.read()
    assert json.loads(Path("again.jsonl").read_text())["custom_id"] == "a"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in shown + log
    assert KEY.encode() not in written
    assert "***" in shown
    assert "\x1b" not in log
    assert all(each.startswith("20") for each in log.splitlines())  # a record each: none is forged


@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
@pytest.mark.parametrize("command", ["status", "logs"])
def test_what_engines_write_changes_no_terminal(command: str, tmp_path: Path) -> None:
    from tests.cli.test_terminal import ATTACKS

    said = "".join(ATTACKS.values())
    run = RunFolder(tmp_path)
    run.create(make_fleet({"engine": {"model": "m"}}))
    run.write_launch(Launch(launcher="local", handles={}))
    run.write_state(AgentState(name="agent-000", phase="failed", reason=said, host=said, address=said, tail=[said]))
    run.log("agent-000").write_text(said)
    arguments = {"status": ("status", str(tmp_path), "--once"), "logs": ("logs", "agent-000", str(tmp_path))}
    _, shown = on_terminal(tmp_path, *arguments[command])
    assert "owned" in shown
    for attack in ATTACKS.values():
        assert attack not in shown
    assert "\x07" not in shown
