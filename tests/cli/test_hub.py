"""Data sets of the Hugging Face hub, of which a small one is served here."""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.forked import Run
from tests.jobs.shared import read_records

COMMIT = "1" * 40
REPOSITORY = {"id": "lab/genes", "sha": COMMIT, "tags": [], "siblings": [{"rfilename": "test.parquet"}]}


def table() -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "gene": ["BRCA1", "TP53", "EGFR"]}), data)
    return data.getvalue()


class Hub(BaseHTTPRequestHandler):
    """A hub with one data set, ``lab/genes``, whose only split is one parquet file."""

    data = table()
    tag = hashlib.sha1(data, usedforsecurity=False).hexdigest()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/lab/genes/tree/"):
            file = {"type": "file", "path": "test.parquet", "size": len(self.data), "oid": self.tag}
            self._give(json.dumps([file]).encode())
        elif path.startswith("/api/datasets/lab/genes"):
            self._give(json.dumps(REPOSITORY).encode())
        elif path == f"/datasets/lab/genes/resolve/{COMMIT}/test.parquet":
            self._give(self.data)
        else:
            self._give(b"{}", 404, "EntryNotFound" if "lab/genes" in path else "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - http.server looks for it

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _give(self, body: bytes, status: int = 200, error: str = "") -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": f'"{self.tag}"', "X-Repo-Commit": COMMIT}
        for name, value in headers.items() if status == 200 else [("Content-Length", "2"), ("X-Error-Code", error)]:
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What commands find the hub by in their environment."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_job_reads_a_data_set_of_the_hub(tmp_path: Path, hostfile: Path, hub: dict[str, str]) -> None:
    output, answers = tmp_path / "out.jsonl", tmp_path / "out.parquet"
    options = ("--template", "What does {gene} do?", "--table", answers, "--hostfile", hostfile, "--quiet")
    run = Run(tmp_path, "run", "hf://lab/genes?split=test", "-o", output, *options, environment=hub)
    assert run.end() == (0, "")
    assert {record["custom_id"] for record in read_records(output)} == {"a", "b", "c"}
    assert pq.read_table(answers).column("gene").to_pylist() == ["BRCA1", "TP53", "EGFR"]


def test_a_data_set_that_the_hub_has_not_is_told(tmp_path: Path, hostfile: Path, hub: dict[str, str]) -> None:
    output = tmp_path / "out.jsonl"
    code, said = Run(tmp_path, "run", "hf://lab/nothing", "-o", output, "--hostfile", hostfile, environment=hub).end()
    assert (code, said.count("\n")) == (3, 1)
    assert "hf://lab/nothing: the input can't be read (Dataset 'lab/nothing' doesn't exist on the Hub" in said
