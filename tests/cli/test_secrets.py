"""A server that repeats the key it was sent, and writes to the terminal, gets neither through any command."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.conftest import Call

KEY = "sk-canary-0123456789abcdef"
EVIL = "\x1b]0;owned\x1b[2J"
COMMANDS = {
    "run": ("run", "in.jsonl", "-o", "out.jsonl", "--model", "m", "--patience", "0.1"),
    "ask": ("ask", "Hello", "--model", "m", "--patience", "0.1"),
    "summarize": ("summarize", "in.jsonl", "--model", "m", "--patience", "0.1"),
    "check": ("check",),
    "check as JSON": ("check", "--json"),
    "wait": ("wait", "--timeout", "0.1"),
}


class Repeating(BaseHTTPRequestHandler):
    """Repeats in every error, and in the names that it gives, what it was sent."""

    protocol_version = "HTTP/1.1"
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
