"""What ``aurora-pool serve`` and ``aurora-pool keys`` do."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from aurora_pool import event_loop
from aurora_pool.cli.exit_codes import ExitCode
from aurora_pool.cli.fleet import watch_hostfile
from aurora_pool.cli.interruptions import Interruptions
from aurora_pool.errors import ConfigError, counted
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.options import Timeouts
from aurora_pool.serve.app import open_data
from aurora_pool.serve.keys import KeyRing, Role, open_keys
from aurora_pool.serve.options import DATABASE, ServerOptions
from aurora_pool.serve.server import serving
from aurora_pool.serve.storage import Storage
from aurora_pool.terminal import one_line, printable

T = TypeVar("T")

logger = logging.getLogger("aurora_pool")


def run_server(hostfile: Path, options: ServerOptions, timeouts: Timeouts, *, log_json: bool) -> ExitCode:
    """Serve until SIGTERM or Ctrl-C. Raises :class:`~aurora_pool.errors.PoolError`."""
    _log_to_stderr(json_lines=log_json)
    interruptions = Interruptions()
    interruptions.keep()
    return event_loop.run(_serve(hostfile, options, timeouts, interruptions))


async def _serve(hostfile: Path, options: ServerOptions, timeouts: Timeouts, interruptions: Interruptions) -> ExitCode:
    endpoints = parse_hostfile(hostfile)
    stopped = asyncio.Event()
    interruptions.hand_to(lambda _: stopped.set())
    async with serving(endpoints, options, timeouts=timeouts) as server:
        watching = asyncio.create_task(watch_hostfile(hostfile, server.fleet.update_endpoints, known=endpoints))
        who = "everybody who can reach it" if options.no_auth else "those who have a key"
        if options.is_loopback and not options.no_auth:
            who = f"this machine only, with a key{'' if server.needs_key else ' once there is one'}"
        logger.info(
            "%s serves %s, for %s; data in %s", server.address, counted(len(endpoints), "agent"), who, options.data
        )
        try:
            await stopped.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        logger.info("stopping; what is in flight has %g s", options.grace)
    logger.info("stopped; batches that are not done go on when the server is started again")
    return ExitCode.DONE


def create_key(
    data: Path,
    database: str | None,
    user: str,
    name: str,
    *,
    admin: bool | None,
    weight: float | None,
    limits: dict[str, int | None],
) -> None:
    """Make a key and print it; None leaves a user who is there as he is."""
    role: Role | None = None if admin is None else "admin" if admin else "user"

    async def create(keys: KeyRing) -> str:
        _, text = await keys.create(user, name, role=role, weight=weight, limits=limits)
        return text

    is_new = database is None and not (data / DATABASE).exists()
    print(_with_keys(data, database, create))
    if is_new:
        print(f"{data}: new server data is created; the key is for a server with this folder", file=sys.stderr)
    print("this key is not shown again", file=sys.stderr)


def list_keys(data: Path, database: str | None, user: str | None) -> None:
    """Print all keys, or those of one user, a line each.

    Raises :class:`~aurora_pool.errors.ConfigError` where no server has its data.
    """
    for key in _with_keys(data, database, KeyRing.list, there=True):
        if user not in (None, key.user):
            continue
        created = time.strftime("%Y-%m-%d", time.localtime(key.created_at))
        state = "revoked" if key.revoked_at else "good"
        limits = "".join(
            f"  {name.replace('_', '-')} {'none' if value is None else value}" for name, value in key.limits.items()
        )
        what = f"{state:<8} weight {key.weight:g}{limits}  {key.name}"
        print(f"{key.id}  {key.user:<20} {key.role:<6} ...{key.hint}  {created}  {what}".rstrip())


def revoke_key(data: Path, database: str | None, key: str) -> None:
    """Make a key worthless. Raises :class:`~aurora_pool.errors.ConfigError` if there is no such key."""
    if not _with_keys(data, database, lambda keys: keys.revoke(key), there=True):
        raise ConfigError(f"keys revoke: there is no good key {key!r}")


def _with_keys(data: Path, database: str | None, work: Callable[[KeyRing], Awaitable[T]], *, there: bool = False) -> T:
    """Do something with keys; those that must be ``there`` already need no folder, and no secret to hash new ones."""
    options = ServerOptions(data=data, database=database)
    if there and database is None and not (data / DATABASE).exists():
        raise ConfigError(f"{data}: there is no server's data in it; name its folder with --data")

    async def run() -> T:
        storage = Storage(options.database_url) if there else open_data(options)
        try:
            await storage.open()
            return await work(
                KeyRing(storage, b"", options.limits) if there else await open_keys(storage, data, options.limits)
            )
        finally:
            await storage.close()

    return asyncio.run(run())


def _log_to_stderr(*, json_lines: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if json_lines else _Lines("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Lines(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        record.message = one_line(record.message)  # only a traceback has lines of its own
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
