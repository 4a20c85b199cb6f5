"""Outputs read back from Python."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from aurora_pool.errors import JobError
from aurora_pool.jobs import Answer, read_answers
from aurora_pool.jobs.records import encode_record
from aurora_pool.jobs.requests import RequestReader
from aurora_pool.messages import Response, Sample

TEXT = RequestReader().read(b'{"custom_id": "a", "prompt": "Hi"}', 1)
CHAT = RequestReader().read(b'{"custom_id": "b", "messages": [{"role": "user", "content": "Hi"}]}', 2)
SAMPLED = Response(True, "one", finish_reason="stop", samples=(Sample("one"), Sample("two")))
RECORDS = [
    encode_record(TEXT, SAMPLED, model="m", created=1, agent="x"),
    encode_record(CHAT, Response(True, "Hello", finish_reason="stop"), model="m", created=1, agent="x"),
    encode_record(TEXT, Response(False, "", "400: no", error_kind="rejected"), model="m", created=1, agent=None),
    b'{"id": "vllm-1", "custom_id": "c", "response": {"status_code": 400, "body": null}, "error": "no streams"}\n',
]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gives_answers_and_reasons(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.jsonl{suffix}"
    data = b"".join(RECORDS)
    path.write_bytes(gzip.compress(data) if suffix else data)
    assert list(read_answers(path)) == [
        Answer("a", "one", None),
        Answer("b", "Hello", None, "stop"),
        Answer("a", None, "400: no"),
        Answer("c", None, "no streams"),
    ]


def test_what_is_no_output_is_told(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="No such file"):
        list(read_answers(tmp_path / "nowhere.jsonl"))
    (tmp_path / "out.jsonl").write_bytes(RECORDS[0] + b"{}\n")
    with pytest.raises(JobError, match="record 2 can't be read"):
        list(read_answers(tmp_path / "out.jsonl"))
