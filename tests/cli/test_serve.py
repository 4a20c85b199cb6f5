"""``aurora-pool serve``, ``keys``, ``submit``, ``jobs``, ``fetch`` and ``cancel``, as a shell sees them."""

from __future__ import annotations

import codecs
import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from aurora_pool.cli import watch
from tests.cli.conftest import Call
from tests.forked import Run
from tests.serve.running import jsonl, line


class Serving:
    def __init__(self, folder: Path, hostfile: Path, data: Path) -> None:
        self._run = Run(folder, "serve", "--hostfile", hostfile, "--data", data, "--port", "0", "--log-json")
        self._run.wait_until(lambda: "\n" in self._run.said, "the server listens")
        self.first = json.loads(self._run.said.splitlines()[0])["message"]
        self.url = self.first.split(" ", 1)[0]

    def wait_for(self, metric: str, key: str) -> None:
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {key}"})  # noqa: S310
        deadline = time.monotonic() + 30
        while metric not in urllib.request.urlopen(request).read().decode():  # noqa: S310 - it is ours
            assert time.monotonic() < deadline, metric
            time.sleep(0.05)

    def stop(self) -> tuple[int, list[str]]:
        if self._run.alive:
            self._run.send(signal.SIGTERM)
        code, said = self._run.end()
        return code, [json.loads(each)["message"] for each in said.splitlines()]


def test_from_a_file_to_its_answers(
    call: Call, hostfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "POLL_EVERY", 0.05)
    source, data = tmp_path / "in.jsonl", tmp_path / "data"
    source.write_bytes(jsonl([line(f"r{i}") for i in range(30)]))
    created = call("keys", "create", "--user", "ann", "--name", "laptop", "--data", data)
    created_data = f"{data}: new server data is created; the key is for a server with this folder\n"
    assert (created.code, created.err) == (0, f"{created_data}this key is not shown again\n")
    key = created.out.strip()
    listed = call("keys", "list", "--data", data).out
    assert "ann" in listed
    assert key not in listed
    own = tmp_path / "fleet.hostfile"
    agents = hostfile.read_text().splitlines(keepends=True)
    own.write_text(agents[0])
    server = Serving(tmp_path, own, data)
    try:
        own.write_text("".join(agents))
        assert " serves 1 agent, for this machine only, with a key; data in " in server.first
        monkeypatch.setenv("AURORA_POOL_SERVER", server.url)
        monkeypatch.setenv("AURORA_POOL_KEY", "ap-wrong")
        refused = call("jobs")
        assert (refused.code, "Incorrect API key" in refused.err) == (2, True)
        monkeypatch.setenv("AURORA_POOL_KEY", key)
        output = tmp_path / "out.jsonl"
        done = call("submit", source, "--watch", "-o", output)
        assert done.code == 0, done.err
        batch_id = done.out.strip()
        assert len(output.read_text().splitlines()) == 30
        assert f"{batch_id}  " in call("jobs").out
        again = tmp_path / "again.jsonl"
        assert call("fetch", batch_id, "-o", again).code == 0
        assert again.read_bytes() == output.read_bytes()
        assert call("fetch", batch_id, "-o", "-").out.encode() == output.read_bytes()
        check_places(call, batch_id, tmp_path, output.read_bytes())
        late = call("cancel", batch_id)
        assert (late.code, late.err.count("\n"), "completed" in late.err) == (2, 1, True)
        source.write_text("nonsense\n")
        bad = call("submit", source)
        assert (bad.code, bad.err.count("\n")) == (3, 1)
        source.write_bytes(jsonl([line("a"), line("a")]))
        bad = call("submit", source, "--watch")
        assert (bad.code, "line 2: " in bad.err) == (3, True)
        server.wait_for(f"aurora_pool_agents {len(agents)}.0", key)
        name = listed.split(" ", 1)[0]
        assert call("keys", "revoke", name, "--data", data).code == 0
        assert call("keys", "revoke", name, "--data", data).code == 2
    finally:
        code, lines = server.stop()
    assert code == 0
    assert lines[-1].startswith("stopped; batches that are not done go on")


def check_places(call: Call, batch_id: str, folder: Path, records: bytes) -> None:
    """Fetch to a former fetch's file by a link, and to a pipe: both stay what they are."""
    link, pipe, old = folder / "link", folder / "pipe", folder / "old.jsonl"
    old.write_bytes(records.splitlines(keepends=True)[0])
    link.symlink_to(old)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for place in (link, pipe):
        assert call("fetch", batch_id, "-o", place).code == 0
    assert (link.is_symlink(), old.read_bytes()) == (True, records)
    assert (pipe.is_fifo(), os.read(reader, 2 * len(records))) == (True, records)
    os.close(reader)


def test_an_output_is_refused_before_anything_is_sent(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AURORA_POOL_SERVER", "http://127.0.0.1:9")  # to ask it would end with 5
    monkeypatch.setattr(time, "sleep", lambda _: None)
    source, link, notes = tmp_path / "in.jsonl", tmp_path / "link", tmp_path / "notes.txt"
    source.write_bytes(jsonl([line("a")]))
    link.symlink_to(source)
    notes.write_text("my notes")
    before = {path: path.read_bytes() for path in (source, notes)}
    (tmp_path / "file").touch()
    for output, code in {
        source: 2,
        link: 2,
        notes: 6,
        tmp_path: 6,
        tmp_path / "none" / "x": 6,
        tmp_path / "file" / "x": 6,
    }.items():
        refused = call("submit", source, "--watch", "-o", output)
        assert (refused.code, refused.err.count("\n"), f"{output}: " in refused.err) == (code, 1, True), refused.err
        if output not in (source, link):
            assert call("fetch", "batch_x", "-o", output).code == 6
    assert call("fetch", "batch_x", "-o", source).code == 6
    assert before == {path: path.read_bytes() for path in before}


def test_a_byte_order_mark_is_named(call: Call, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(codecs.BOM_UTF8 + jsonl([line("a")]))
    refused = call("submit", source)
    assert (refused.code, f"{source}:1: it begins with a byte order mark" in refused.err) == (3, True)


def test_a_further_key_leaves_an_administrator_one(call: Call, tmp_path: Path) -> None:
    for options in (["--admin"], ["--name", "phone"]):
        assert call("keys", "create", "--user", "root", *options, "--data", tmp_path).code == 0
    assert call("keys", "list", "--data", tmp_path).out.count(" admin ") == 2
    assert call("keys", "create", "--user", "root", "--no-admin", "--data", tmp_path).code == 0
    assert call("keys", "list", "--data", tmp_path).out.count(" admin ") == 0


def test_the_list_of_keys_shows_shares_and_limits(call: Call, tmp_path: Path) -> None:
    for user, options in (("ann", ["--weight", "2", "--tokens-per-day", "500", "--name", "laptop"]), ("bob", [])):
        assert call("keys", "create", "--user", user, *options, "--data", tmp_path).code == 0
    assert call("keys", "create", "--user", "ann", "--tokens-per-day", "none", "--data", tmp_path).code == 0
    lines = call("keys", "list", "--user", "ann", "--data", tmp_path).out.splitlines()
    assert [each.partition("good ")[2].strip() for each in lines] == [
        "weight 2  tokens-per-day none  laptop",
        "weight 2  tokens-per-day none",
    ]
    assert "weight 1" in call("keys", "list", "--user", "bob", "--data", tmp_path).out
    for wrong in ("0", "many", str(1 << 53), "9" * 5000, "0" * 18 + "1" + "9" * 400):
        refused = call("keys", "create", "--user", "ann", "--tokens-per-day", wrong, "--data", tmp_path)
        assert (refused.code, "--tokens-per-day" in refused.err, "whole number above 0" in refused.err) == (
            2,
            True,
            True,
        )


def test_looking_for_keys_makes_no_data(call: Call, tmp_path: Path) -> None:
    data = tmp_path / "none"
    ended = call("keys", "list", "--data", data)
    assert (ended.code, f"{data}: there is no server's data in it" in ended.err) == (2, True)
    assert not data.exists()


def test_mistakes_are_one_line(call: Call, hostfile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AURORA_POOL_SERVER", "http://127.0.0.1:9")
    monkeypatch.setattr(time, "sleep", lambda _: None)  # as the openai client does before it asks once more
    source = tmp_path / "in.jsonl"
    source.write_bytes(jsonl([line("a")]))
    data = ["--data", tmp_path / "d"]
    attempts = {
        ("serve", "--hostfile", tmp_path / "none", *data): 4,
        ("serve", "--hostfile", hostfile, "--host", "0.0.0.0", *data): 2,  # noqa: S104 - that is what is refused
        ("serve", "--hostfile", hostfile, "--tls-cert", "x", *data): 2,
        ("serve", "--hostfile", hostfile, "--database", "mysql://x", *data): 2,
        ("keys", "create", *data): 2,
        ("keys", "revoke", *data): 2,
        ("keys", "revoke", "key_0", *data): 2,
        ("keys", "create", "--user", "a b", *data): 2,
        ("jobs",): 5,
        ("submit", source): 5,
        ("submit", tmp_path / "none"): 3,
        ("fetch", "batch_x", "-o", tmp_path / "o"): 5,
    }
    for arguments, code in attempts.items():
        ended = call(*arguments)
        assert (ended.code, ended.err.count("\n")) == (code, 1), (arguments, ended.err)
