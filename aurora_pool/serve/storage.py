"""The database: SQLite in the data folder by default, PostgreSQL by URL, by the same statements.

On SQLite every transaction that may write begins with ``BEGIN IMMEDIATE``: one that reads first and writes later could
fail at once, whatever ``busy_timeout`` says.

No cancellation cuts a statement short. SQLite would stay locked for as long as anything refers to that statement, as
the traceback of the cancellation does, and nobody would know whether a commit has happened. So each statement runs to
its end, and the task hears of its cancellation at the first thing after it that it awaits and that is no statement:
after its transaction, as a rule. Where the statement fails, the task hears of its cancellation instead of the failure.
A statement that takes too long (``LONGEST``) after a cancellation is cut short after all.

So no transaction may be the last thing inside an ``asyncio.timeout``, or in the body of a ``TaskGroup``: their
cancellation would be heard behind them, as one that nobody handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from aurora_pool.errors import ConfigError
from aurora_pool.serve.migrate import upgrade

BUSY = 30_000
"""Milliseconds that a write waits for another one, on SQLite."""

LONGEST = 2 * BUSY / 1000
"""Seconds that a cancelled task waits for the end of its statement: SQLite's are done by then, or have failed."""

T = TypeVar("T")

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs", "nfs4", "lustre", "gpfs", "cifs", "smb2", "smb3", "smbfs", "ceph", "beegfs", "beegfs_nodev", "wekafs",
        "panfs", "orangefs", "ocfs2", "gfs2", "9p", "virtiofs", "afs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse",
        "fuse.sshfs", "fuse.juicefs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone",
    }
)  # fmt: skip
"""SQLite's locks and its shared memory can't be trusted on these: others than this machine write to them."""


class Storage:
    """Transactions on the server's database.

    >>> async with storage.write() as connection:  # doctest: +SKIP
    ...     await connection.execute(insert(files).values(...))
    """

    def __init__(self, url: str) -> None:
        """Raises :class:`~aurora_pool.errors.ConfigError` for a URL that names no database this can use."""
        self._open: set[asyncio.Event] = set()
        try:
            parsed = make_url(url)
            drivers = {
                "sqlite": "sqlite+aiosqlite",
                "postgresql": "postgresql+asyncpg",
                "postgres": "postgresql+asyncpg",
            }
            if parsed.drivername in drivers:
                parsed = parsed.set(drivername=drivers[parsed.drivername])
            if parsed.drivername not in drivers.values():
                raise ConfigError(f"the database {parsed.drivername!r}: expected sqlite:///PATH or postgresql://...")
            self.is_sqlite = parsed.drivername.startswith("sqlite")
            if self.is_sqlite:
                self.path = _checked_place(parsed.database)
                self._engine: AsyncEngine = create_async_engine(parsed)
                _set_up_sqlite(self._engine)
            else:
                self._engine = create_async_engine(parsed, pool_size=8, max_overflow=8, pool_pre_ping=True)
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigError(f"the database's URL can't be used: {error}") from error
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"PostgreSQL needs the package {error.name}: pip install 'aurora-pool[postgres]'"
            ) from error

    async def open(self) -> None:
        """Bring the database up to this version's tables. Raises :class:`~aurora_pool.errors.ConfigError`."""
        try:
            async with self.write() as connection:
                await connection.run_sync(upgrade)
        except (DBAPIError, OSError) as error:
            raise ConfigError(f"the database can't be used: {_reason(error)}") from error

    async def close(self) -> None:
        """Close all connections, once the transactions on them have ended."""
        while self._open:
            await next(iter(self._open)).wait()
        await self._engine.dispose()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction, committed at the end unless an exception ends it."""
        async with self._transaction(reads_only=False) as connection:
            yield connection
            await _whole(connection.commit())

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that only reads, and holds up no writer."""
        async with self._transaction(reads_only=True) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, *, reads_only: bool) -> AsyncIterator[AsyncConnection]:
        await asyncio.sleep(0)  # a cancellation that came in the last transaction is heard before the next one
        connection, ended = _Connection(self._engine), asyncio.Event()
        self._open.add(ended)
        try:
            await _whole(_begin(connection, reads_only=reads_only))
            yield connection
        finally:
            try:
                if connection.sync_connection is not None:  # else it could not be opened
                    await _whole(connection.close())
            finally:
                self._open.discard(ended)
                ended.set()


class _Connection(AsyncConnection):
    """Runs each statement to its end, also where the task that waits for it is cancelled."""

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await _whole(super().execute(*args, **options))

    async def run_sync(self, *args: Any, **options: Any) -> Any:
        return await _whole(super().run_sync(*args, **options))


async def _begin(connection: AsyncConnection, *, reads_only: bool) -> None:
    await connection.start()
    await connection.execution_options(reads_only=reads_only)
    await connection.begin()


async def _whole(work: Coroutine[Any, Any, T]) -> T:
    """Run something to its end in a task of its own; a cancellation of this task meanwhile goes on after that."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task], timeout=LONGEST if cancelled else None)
        except asyncio.CancelledError:
            cancelled = True
        else:
            task.cancel()  # changes nothing, unless it took too long
    try:
        result = task.result()
    except (Exception, asyncio.CancelledError) as error:
        if cancelled:  # heard now: who handles it may go on to let go of things, in another transaction
            raise asyncio.CancelledError from error
        raise
    this = asyncio.current_task()
    if cancelled and this is not None:
        this.uncancel()
        this.cancel()  # heard at the next await
    return result


def _set_up_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY}", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begun(connection: Connection) -> None:
        reads = connection.get_execution_options().get("reads_only")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _checked_place(database: str | None) -> Path:
    if not database or database == ":memory:":
        raise ConfigError("the database sqlite: expected a file, as in sqlite:////var/lib/aurora-pool/serve.db")
    path = Path(database).absolute()
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"{folder}: the folder of the database is not there")
    found = file_system_of(folder)
    if found in NETWORK_FILE_SYSTEMS:
        raise ConfigError(
            f"{database}: SQLite loses data on a network file system, and this is one ({found}); "
            "name a local folder, or a PostgreSQL database"
        )
    return path


def file_system_of(folder: Path) -> str:
    """Name the type of the file system that holds a folder; empty where the system does not tell."""
    best, kind = -1, ""
    where = str(folder.resolve())
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), found
    return kind


def _reason(error: Exception) -> str:
    text = str(error.orig) if isinstance(error, DBAPIError) and error.orig is not None else str(error)
    return text.splitlines()[0] if text else type(error).__name__
