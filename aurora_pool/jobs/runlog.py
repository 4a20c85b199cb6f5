"""The run log beside an output: what each prompt cost and what each agent did, for ``aurora-pool report``.

One JSON value a line. A prompt is ``[seconds, agent, latency, prompt tokens, generated tokens, attempts, outcome]``:
the seconds are counted from the run's ``start`` line, the agent is its number in the latest line that has ``names``.
Everything else is an object with an ``event``. A run appends to the log of the runs before it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import IO, Any

import msgspec

from aurora_pool.jobs.paths import beside
from aurora_pool.messages import Response
from aurora_pool.own_files import open_own
from aurora_pool.statistics import PoolStatistics

EVERY = 30.0
"""Seconds between notes of what the pool has counted."""

FLUSHED = 3.0
"""Seconds of the log that a kill may cost."""

_BEGINNING = b'{"event":'

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


def run_log_of(output: str | Path) -> Path:
    """Where the run log of an output stands.

    >>> run_log_of("answers.jsonl").name
    'answers.jsonl.runlog'
    """
    return beside(Path(output), ".runlog")


class RunLog:
    """Writes one run's part. It is no record of anything: a disk that refuses it ends the log, not the job."""

    def __init__(self, path: Path | None, *, mode: int = 0o644) -> None:
        self._file: IO[bytes] | None = None
        self._path = path
        self._mode = mode
        self._noted = 0.0
        self._flushed = 0.0
        if path is not None:
            try:
                self._file = self._open(path)
            except OSError as error:
                self._give_up(error)

    def _open(self, path: Path) -> IO[bytes]:
        # Readable as well: its end is checked before anything is appended.
        fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode=self._mode)
        size = os.fstat(fd).st_size
        if size and os.pread(fd, len(_BEGINNING), 0) != _BEGINNING:
            os.close(fd)
            raise OSError(0, "it is something else")
        file = os.fdopen(fd, "ab")
        if size and os.pread(fd, 1, size - 1) != b"\n":
            file.write(b"\n")  # a kill has cut the last line: the next one must not become part of it
        return file

    def event(self, name: str, **fields: Any) -> None:
        """Note something that happened once."""
        self._write({"event": name, **fields})

    def prompt(self, seconds: float, response: Response) -> None:
        """Note one finished prompt."""
        if self._file is not None:
            row = (
                round(seconds, 3),
                response.agent_index,
                round(response.latency, 3),
                response.prompt_tokens,
                response.completion_tokens,
                response.attempts,
                "ok" if response.success else response.error_kind,
            )
            self._write(row)

    def sample(self, seconds: float, statistics: PoolStatistics) -> None:
        """Note now and then what the pool has counted, and put everything into the file."""
        if seconds - self._noted >= EVERY:
            self.note_agents(seconds, statistics)
        if seconds - self._flushed >= FLUSHED:
            self._flushed = seconds
            self.flush()

    def note_agents(self, seconds: float, statistics: PoolStatistics) -> None:
        """Note what the pool has counted: agents, failed requests by outcome, prompts that went elsewhere."""
        failures: dict[str, int] = {}
        for agent in statistics.agents:
            for outcome, count in agent.failures.items():
                failures[outcome] = failures.get(outcome, 0) + count
        self.event(
            "agents",
            t=round(seconds, 3),
            names=[str(agent.endpoint) for agent in statistics.agents],
            failures=failures,
            moved=statistics.moved,
            hedged=statistics.hedged,
            wasted_tokens=statistics.wasted_tokens,
            prefix_hit_shares=[agent.prefix_hit_share for agent in statistics.agents],
            **({"cost": round(statistics.cost, 9)} if statistics.cost else {}),
        )
        self._noted = seconds
        self.flush()

    def flush(self) -> None:
        """Put what is buffered into the file."""
        if self._file is not None:
            try:
                self._file.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """End this run's part."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._give_up(error)
            self._file = None

    def _write(self, value: object) -> None:
        if self._file is not None:
            try:
                self._file.write(_encode(value) + b"\n")
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        logger.warning("%s: the run log can't be written (%s); the job goes on without", self._path, error.strerror)
        file, self._file = self._file, None
        if file is not None:
            # Closing tries to write what is buffered, which fails again; the descriptor is closed all the same.
            try:
                file.close()
            except OSError:
                return
