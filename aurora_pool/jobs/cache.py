"""Answers that any job may have again: a folder of them, which jobs share."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from hashlib import blake2b
from pathlib import Path

import msgspec

from aurora_pool.errors import JobError
from aurora_pool.jobs.requests import Request
from aurora_pool.messages import Response

_TOGETHER = 256
"""Answers that are written at a time: a transaction each would take longer than many an answer."""


class ResponseCache:
    """Answers by model and request. Of what is sampled, only what has a seed is kept, unless ``sampled`` asks for all.

    Raises :class:`~aurora_pool.errors.JobError` for a folder that can't be used.
    """

    def __init__(self, folder: str | Path, *, sampled: bool = False) -> None:
        self._path = Path(folder) / "answers.sqlite"
        self._sampled = sampled
        self._encode = msgspec.json.Encoder(order="sorted").encode
        self._decode = msgspec.json.Decoder(Response).decode
        self._waiting: dict[bytes, bytes] = {}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as unusable:
                self._database = unusable.enter_context(closing(sqlite3.connect(self._path, timeout=60)))
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute("CREATE TABLE IF NOT EXISTS answers (request BLOB PRIMARY KEY, answer BLOB)")
                unusable.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error

    def get(self, request: Request, model: str) -> Response | None:
        """Give the answer to a request, if there is one."""
        if not self._may_keep(request):
            return None
        key = self._key(request, model)
        found = self._waiting.get(key)
        if found is None:
            try:
                row = self._database.execute("SELECT answer FROM answers WHERE request = ?", (key,)).fetchone()
            except sqlite3.Error as error:
                raise self._failure(error) from error
            found = None if row is None else row[0]
        return None if found is None else self._decode(found)

    def put(self, request: Request, model: str, response: Response) -> None:
        """Keep an answer."""
        if not self._may_keep(request):
            return
        kept = msgspec.structs.replace(response, agent_index=None, attempts=0, latency=0.0)
        self._waiting[self._key(request, model)] = self._encode(kept)
        if len(self._waiting) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written."""
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", self._waiting.items())
        except sqlite3.Error as error:
            raise self._failure(error) from error
        self._waiting.clear()

    def close(self) -> None:
        """Write what waits, and let go of the folder."""
        try:
            self.flush()
        finally:
            self._database.close()

    def _may_keep(self, request: Request) -> bool:
        body = request.body
        if request.embedding or self._sampled or body.get("temperature") == 0:
            return True
        return body.get("seed") is not None

    def _key(self, request: Request, model: str) -> bytes:
        asked = (model, request.url, request.raw, request.body)
        return blake2b(self._encode(asked), digest_size=16).digest()

    def _failure(self, error: Exception) -> JobError:
        return JobError(f"{self._path}: the cache can't be used ({error})")
