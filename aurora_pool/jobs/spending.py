"""What a job has spent on hosted agents, kept beside its output so that a limit holds for all its runs together.

The file says how much counts as spent. Money is drawn ahead in small parts, before anything is sent for it: a run that
is killed has spent no more than was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import msgspec

from aurora_pool.errors import ConfigError, JobError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.jobs.paths import beside
from aurora_pool.own_files import replacement


def spending_of(output: str | Path) -> Path:
    """Where the spending of an output stands.

    >>> spending_of("answers.jsonl").name
    'answers.jsonl.cost'
    """
    return beside(Path(output), ".cost")


def check_prices(endpoints: Iterable[AgentEndpoint], *, priced: bool) -> None:
    """Raise :class:`ConfigError` if a limit of the cost can't be kept, because prices are not known.

    ``priced`` tells whether the job has prices of its own.
    """
    hosted = [(endpoint, terms) for endpoint in endpoints if (terms := endpoint.hosted) is not None]
    free = next((endpoint for endpoint, terms in hosted if not terms.priced), None)
    if free is not None:
        raise ConfigError(f"a limit of the cost needs prices: expected price_in= and price_out= at {free}")
    if not (hosted or priced):
        raise ConfigError("--max-cost needs a price of tokens: expected --price beside it")


class Spending:
    """Reads how much a job has spent, and writes it."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.spent = 0.0
        if path is not None:
            try:
                spent = msgspec.json.decode(path.read_bytes(), type=dict[str, float])["spent"]
            except FileNotFoundError:
                return
            except (OSError, msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
                raise JobError(f"{path}: what the job has spent can't be read ({error})") from error
            if not 0 <= spent < math.inf:
                raise JobError(f"{path}: what the job has spent can't be read")
            self.spent = spent

    def write(self, spent: float) -> None:
        """Keep how much counts as spent. Raises :class:`JobError` if that can't be written."""
        if self._path is None:
            return
        try:
            with replacement(self._path) as file:
                file.write(msgspec.json.encode({"spent": round(spent, 9)}) + b"\n")
        except OSError as error:
            raise JobError(f"{self._path}: what the job spends can't be written ({error.strerror})") from error
