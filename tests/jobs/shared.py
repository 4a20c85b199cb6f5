"""Helpers of the tests of jobs and of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

WriteLines = Callable[[str, Iterable[Any]], Path]


def write_jsonl(path: Path, lines: Iterable[Any]) -> Path:
    """Write a JSONL file: objects as JSON, strings unchanged."""
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read an output; fails on a torn line."""
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def texts_of(path: Path) -> dict[str, str]:
    """Read an output's answers by id; fails on an id that is listed twice and on a failed request."""
    records = read_records(path)
    texts = {}
    for record in records:
        (choice,) = record["response"]["body"]["choices"]
        texts[record["custom_id"]] = choice["text"] if "text" in choice else choice["message"]["content"]
    assert len(texts) == len(records)
    return texts


def lines(count: int) -> list[dict[str, object]]:
    """Make this many requests, with ids and short answers."""
    return [{"id": f"p{number}", "prompt": f"Say {number}.", "max_tokens": 40} for number in range(count)]
