"""``submit``, ``jobs``, ``fetch`` and ``cancel`` with a server that may say anything."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from aurora_pool.cli import watch
from tests.cli.conftest import COMMAND, Call
from tests.cli.test_terminal import ATTACKS
from tests.serve.running import jsonl, line

SAID = "".join(ATTACKS.values()) + "\nWARNING aurora_pool: forged"
FILE = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 0, "filename": SAID, "purpose": "batch"}
FILE |= {"status": "processed"}
BATCH: dict[str, Any] = {
    "id": f"batch-{SAID}",
    "object": "batch",
    "endpoint": "/v1/completions",
    "input_file_id": SAID,
    "completion_window": SAID,
    "status": "completed",
    "created_at": 0,
    "output_file_id": SAID,
    "request_counts": {"total": 1, "completed": 1, "failed": 0},
    "errors": {"object": "list", "data": [{"line": 1, "message": SAID, "code": SAID}]},
    "metadata": {"filename": SAID},
}

RECORD = b'{"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": null}\n'

TURN = "/turn"


class Odd(ThreadingHTTPServer):
    """Answers requests for batches with what a test says, whatever it is, and takes any file."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.batch: bytes = b"{}"
        self.then = (200, b"{}")
        """The status and batch to go on with once it is asked for :data:`TURN`, or is no longer lost."""
        self.content = RECORD
        self.lost = 0
        """How often it gives no reply to who asks for a batch; the last time it is :attr:`refusal`."""
        self.refusal = (503, b"{}")
        self.hangs = False
        """Where it gives no reply, it waits until the client gives up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Odd

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = self.path.partition("?")[0]
        status, body = self.server.status, self.server.batch
        if self.server.lost and path.startswith("/v1/batches/"):
            self.server.lost -= 1
            if self.server.lost:
                if self.server.hangs:
                    self.connection.recv(1)
                self.close_connection = True
                return
            self.server.status, self.server.batch = self.server.then
            status, body = self.server.refusal
        if path == TURN:
            self.server.status, self.server.batch = self.server.then
            status, body = 200, b""
        elif path == "/v1/files":
            status, body = 200, json.dumps(FILE).encode()
        elif path.startswith("/v1/files/"):
            status, body = 200, self.server.content
        elif path == "/v1/batches" and self.command == "GET" and status == 200:
            body = b'{"object": "list", "has_more": false, "data": [' + body + b"]}"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 (the name is the library's)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name is the library's)
        """Say nothing."""


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    with Odd() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("AURORA_POOL_SERVER", server.url)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def commands(tmp_path: Path) -> list[tuple[str, ...]]:
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl([line("a")]))
    output = str(tmp_path / "out.jsonl")
    return [
        ("submit", str(source), "--watch", "-o", output),
        ("jobs",),
        ("fetch", "batch-1", "-o", output),
        ("cancel", "batch-1"),
    ]


def in_a_terminal(*command: str) -> str:
    """Run a command with a terminal; return all that it wrote there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the last writer has gone
            break
        if not piece:
            break
        written += piece
    process.wait(60)
    os.close(ours)
    return written.decode("utf-8", "replace")


@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
def test_nothing_that_it_says_changes_a_terminal(odd: Odd, commands: list[tuple[str, ...]]) -> None:
    commands = [*commands, ("fetch", "batch-1", "-o", "-"), ("fetch", "batch-1", "-o", "/dev/stdout")]
    odd.content = RECORD + "".join(ATTACKS.values()).encode() + b"\n"
    odd.batch = json.dumps(BATCH).encode()
    odd.then = 400, json.dumps({"error": {"message": SAID, "code": 400}}).encode()
    # In one terminal, one after the other: to start the command is what costs.
    every = "; ".join(f"main({list(command)!r})" for command in commands)
    calls = "import sys, urllib.request\nfrom aurora_pool.cli import main as run\ndef main(arguments):\n"
    calls += "    sys.argv = ['aurora-pool', *arguments]\n    try: run()\n    except SystemExit: pass\n"
    turn = f"urllib.request.urlopen('{odd.url}{TURN}').read(); print('{TURN}', flush=True)"
    shown = in_a_terminal(COMMAND[0], "-c", f"{calls}{every}\n{turn}\n{every}")
    good, bad = shown.split(TURN)
    assert good.count("owned") >= len(commands) - 1  # one of them says no more than the batch's status
    assert bad.count("owned") >= len(commands)
    for text in ("\x1b]", "\x1b[2J", "\x1bP", "\x1bc", "\x1b(0", "\x07", "\x9d", "\x9b31m", "\u202e"):
        assert text not in shown
    assert not any(each.startswith("WARNING") for each in shown.splitlines())


UNREADABLE = {
    "no JSON": b"<html>",
    "nested": b"[" * 100_000,
    "another type": b'"batch"',
    "null": b"null",
    "no fields": b"{}",
    "counts of text": json.dumps(BATCH | {"request_counts": {"total": "x", "completed": None, "failed": []}}).encode(),
    "a date beyond all": json.dumps(BATCH | {"created_at": 10**300}).encode(),
    "an unknown status": json.dumps(BATCH | {"status": SAID}).encode(),
}


@pytest.mark.parametrize("batch", UNREADABLE.values(), ids=UNREADABLE)
def test_a_reply_that_is_none_is_one_line(
    batch: bytes, odd: Odd, commands: list[tuple[str, ...]], call: Call, tmp_path: Path
) -> None:
    odd.batch = batch
    for command in commands[1:2] if batch == UNREADABLE["a date beyond all"] else commands:
        ended = call(*command)
        assert (ended.code, ended.err.count("\n")) == (5, 1), ended.err
        assert "the reply can't be read" in ended.err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_message_is_cut(odd: Odd, commands: list[tuple[str, ...]], call: Call) -> None:
    odd.status = 400
    odd.batch = json.dumps({"error": {"message": "x" * 5_000_000}}).encode()
    for command in commands:
        ended = call(*command)
        assert ended.code == 2
        assert len(ended.err) < 2200
        assert "more characters]" in ended.err


def test_any_id_is_one_part_of_a_path(odd: Odd, commands: list[tuple[str, ...]], call: Call, tmp_path: Path) -> None:
    odd.batch = json.dumps(BATCH | {"id": "../\x00//a?b#c", "output_file_id": "..\x00/%2e\n"}).encode()
    assert call(*commands[2]).code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == RECORD
    odd.batch = json.dumps(BATCH | {"request_counts": {"total": 10**400, "completed": 10**400, "failed": 0}}).encode()
    assert call(*commands[2]).code == 0


@pytest.mark.parametrize(
    ("status", "completed", "failed", "code"),
    [
        ("completed", 3, 0, 0),
        ("completed", 2, 1, 1),
        ("in_progress", 2, 0, 1),
        ("cancelled", 2, 0, 1),
        ("expired", 2, 1, 1),
        ("failed", 0, 0, 3),
    ],
)
def test_the_exit_code_tells_whether_all_requests_have_answers(
    call: Call, odd: Odd, tmp_path: Path, status: str, completed: int, failed: int, code: int
) -> None:
    output = tmp_path / "out.jsonl"
    counts = {"total": 3, "completed": completed, "failed": failed}
    errors = {"object": "list", "data": [{"line": 2, "message": "no prompt", "code": "invalid_request"}]}
    batch = {**BATCH, "id": "batch-1", "status": status, "output_file_id": "file-1", "request_counts": counts}
    odd.batch = json.dumps({**batch, "errors": errors if status == "failed" else None}).encode()
    ended = call("fetch", "batch-1", "-o", output)
    assert (ended.code, output.exists()) == (code, status != "failed")
    assert ("line 2: no prompt" in ended.err) == (status == "failed")


WATCHED = {**BATCH, "id": "batch-1", "output_file_id": "file-1", "errors": None}


@pytest.fixture
def busy(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> Odd:
    """A server whose batch is in progress, and ends once the server is no longer lost; it is asked without a pause."""
    monkeypatch.setattr(watch, "POLL_EVERY", 0.0)
    odd.batch = json.dumps(WATCHED | {"status": "in_progress"}).encode()
    odd.then = 200, json.dumps(WATCHED).encode()
    return odd


def test_a_server_that_starts_again_is_waited_for(
    call: Call, busy: Odd, commands: list[tuple[str, ...]], tmp_path: Path
) -> None:
    busy.lost = 4
    ended = call(*commands[0])
    assert (ended.code, (tmp_path / "out.jsonl").read_bytes()) == (0, RECORD)
    assert ended.err.splitlines() == [
        "batch-1: the server can't be reached now; it is asked again",
        "batch-1: completed",
    ]


def test_a_server_that_hangs_is_asked_again(
    call: Call, busy: Odd, commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "ANSWERING", 0.2)
    busy.lost, busy.hangs = 2, True
    ended = call(*commands[0])
    assert (ended.code, (tmp_path / "out.jsonl").read_bytes()) == (0, RECORD)
    assert ended.err.splitlines()[0] == "batch-1: the server can't be reached now; it is asked again"


@pytest.mark.parametrize("status", [408, 429, 500])
def test_a_server_that_can_t_answer_is_asked_again_and_its_message_shown(
    call: Call,
    busy: Odd,
    commands: list[tuple[str, ...]],
    tmp_path: Path,
    status: int,
) -> None:
    busy.lost, busy.refusal = 1, (status, json.dumps({"error": {"message": "The disk is full."}}).encode())
    ended = call(*commands[0])
    assert (ended.code, (tmp_path / "out.jsonl").read_bytes()) == (0, RECORD)
    assert ended.err.splitlines() == [
        "batch-1: the server can't answer now (The disk is full.); it is asked again",
        "batch-1: completed",
    ]


def test_a_watch_of_a_batch_that_is_gone_ends(call: Call, busy: Odd, commands: list[tuple[str, ...]]) -> None:
    busy.lost, busy.refusal = 1, (404, json.dumps({"error": {"message": "No such batch."}}).encode())
    ended = call(*commands[0])
    assert (ended.code, "No such batch." in ended.err) == (2, True)


@pytest.mark.parametrize(
    "reply", [b"{}", *(json.dumps(WATCHED | bad).encode() for bad in ({"status": 5}, {"errors": {"data": 5}}))]
)
def test_a_watch_ends_at_a_reply_that_is_no_batch(
    call: Call, busy: Odd, commands: list[tuple[str, ...]], reply: bytes
) -> None:
    busy.lost, busy.refusal = 1, (200, reply)
    ended = call(*commands[0])
    assert (ended.code, "the reply can't be read (" in ended.err) == (5, True)


def test_why_a_batch_waits_is_told(
    call: Call, odd: Odd, commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "Limit of 9 tokens a day reached."
    odd.batch = json.dumps(WATCHED | {"status": "in_progress", "aurora_pool": {"waiting": reason}}).encode()
    assert call("jobs").out.endswith(f"  waits: {reason}\n")
    polls = count()

    def sleep(_: float) -> None:
        if next(polls) == 3:
            odd.batch = json.dumps(WATCHED).encode()

    monkeypatch.setattr(time, "sleep", sleep)
    ended = call(*commands[0])
    assert (ended.code, ended.err.count(f"batch-1: waits: {reason}\n")) == (0, 1)


def test_a_watch_that_ends_tells_how_to_get_the_answers(
    call: Call, busy: Odd, commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PATIENCE", 0.0)
    busy.lost = 10
    ended = call(*commands[0])
    assert (ended.code, "can't be reached (" in ended.err) == (5, True)
    assert ended.err.endswith("  the server keeps the batch: aurora-pool fetch batch-1 -o FILE\n")


def test_a_missing_key_is_named(call: Call, odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    odd.status, odd.batch = 401, json.dumps({"error": {"message": "Incorrect API key provided."}}).encode()
    for key, told in (("", "AURORA_POOL_KEY is not set"), ("ap-x", "Incorrect API key provided.")):
        monkeypatch.setenv("AURORA_POOL_KEY", key)
        ended = call("jobs")
        assert (ended.code, ended.err.count("\n"), told in ended.err) == (2, 1, True)


@pytest.mark.parametrize("url", ["foo://x", "login01:8080", "127.0.0.1", "http://", "http://[x", "http://x:y"])
def test_what_is_no_url_is_told(call: Call, url: str) -> None:
    ended = call("jobs", "--server", url)
    assert (
        ended.code,
        ended.err.count("\n"),
        f"--server: expected a URL such as http://login01:8080, got {url!r}" in ended.err,
    ) == (2, 1, True)
