"""The application: everything made and tied together, started and stopped in the right order."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from aurora_pool.errors import ConfigError
from aurora_pool.own_files import open_own
from aurora_pool.serve.access import Gatekeeper, is_open, set_caller
from aurora_pool.serve.batch_run import Machinery
from aurora_pool.serve.batches import BatchesApi
from aurora_pool.serve.blobs import open_blobs
from aurora_pool.serve.bodies import READ_TIMEOUT
from aurora_pool.serve.dashboard import Dashboard
from aurora_pool.serve.dashboard_jobs import JobPages
from aurora_pool.serve.dashboard_state import StateApi
from aurora_pool.serve.delivery import Deliverer
from aurora_pool.serve.errors import ApiError, of_http_exception, too_large, unavailable
from aurora_pool.serve.executor import Executor
from aurora_pool.serve.files import FilesApi
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.folders import BatchFolders
from aurora_pool.serve.gateway import Gateway
from aurora_pool.serve.history import SAMPLE_EVERY, History
from aurora_pool.serve.keys import open_keys
from aurora_pool.serve.keys_api import KeysApi
from aurora_pool.serve.leases import Leases
from aurora_pool.serve.limits import Limiter, TokenAccounts
from aurora_pool.serve.openapi import OpenApi
from aurora_pool.serve.options import ServerOptions
from aurora_pool.serve.proxies import believe, parse_networks
from aurora_pool.serve.records import BatchRecords
from aurora_pool.serve.rendering import UI, Pages, protect
from aurora_pool.serve.status import StatusApi
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.waits import Waits
from aurora_pool.serve.webhooks import WebhooksApi

FLUSH_EVERY = 2.0
SWEEP_EVERY = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

EXECUTOR = web.AppKey("executor", Executor)
NEEDS_KEY = web.AppKey("needs_key", bool)

logger = logging.getLogger("aurora_pool")


@asynccontextmanager
async def open_app(
    options: ServerOptions, fleet: ServedFleet, arrived: Callable[[web.Request], None] = lambda _: None
) -> AsyncIterator[web.Application]:
    """Make the application and start all that runs behind it; at the end, let go of everything.

    ``arrived`` is called with each request. One more middleware would cost more than all that it does.
    Raises :class:`~aurora_pool.errors.ConfigError` for a folder, a database or a secret that can't be used.
    """
    storage = open_data(options)
    async with AsyncExitStack() as stack:
        if storage.is_sqlite:
            stack.callback(_lock(storage.path))
        stack.push_async_callback(storage.close)
        await storage.open()
        keys = await open_keys(storage, options.data, options.limits)
        gatekeeper = Gatekeeper(keys, options)
        if not options.is_loopback and not options.no_auth and not await keys.exist():
            raise ConfigError(
                f"--host {options.host} lets others in, and there is no key: make one with 'aurora-pool keys create', "
                "or say --no-auth"
            )
        needs_key = await gatekeeper.required()  # before anything runs, so that the server's first line is its address
        blobs = open_blobs(options.files, options.data / "files")
        folders = BatchFolders(options.data / "batches", blobs)
        accounts = TokenAccounts(storage)
        deliverer = Deliverer(storage, allows_private=options.private_webhooks)
        stack.push_async_callback(deliverer.close)
        leases = Leases(storage, f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", options.lease)
        if storage.is_sqlite:
            await leases.take_over_all()
        machinery = Machinery(fleet, folders, blobs, accounts, keys, options, deliverer.wake)
        executor = Executor(machinery, leases, keys, options)
        limiter = Limiter(accounts)
        files = FilesApi(storage, blobs, options.data / "incoming", options)
        gateway = Gateway(fleet, limiter, options)
        waits = Waits(accounts, keys)
        batches = BatchesApi(storage, folders, options, waits, executor.wake)
        history = History(fleet, gateway)
        pages = Pages()
        apis = (
            gateway,
            files,
            batches,
            WebhooksApi(storage, deliverer),
            KeysApi(keys),
            StatusApi(fleet, gateway, executor),
            state := StateApi(fleet, storage, gateway, waits),
            pages,
            Dashboard(pages, fleet, gateway, history, keys, gatekeeper),
            JobPages(pages, storage, blobs, BatchRecords(folders, blobs), files, batches, waits),
        )
        app = web.Application(
            client_max_size=options.body_bytes, middlewares=[_around(gatekeeper, options.body_bytes, pages, arrived)]
        )
        if proxies := parse_networks(options.trusted_proxies):
            app.middlewares.insert(0, believe(proxies))
        for api in apis:
            app.add_routes(api.routes())
        app.add_routes(OpenApi(app).routes())
        app.on_shutdown.extend([state.close, pages.close])
        app.on_response_prepare.append(protect)
        app[EXECUTOR] = executor
        app[NEEDS_KEY] = needs_key
        app[READ_TIMEOUT] = options.read_timeout
        stack.push_async_callback(accounts.flush)
        stack.push_async_callback(fleet.close)
        background = (
            fleet.run(),
            deliverer.run(),
            _every(FLUSH_EVERY, accounts.flush),
            _every(SWEEP_EVERY, files.sweep),
            _every(SAMPLE_EVERY, history.take),
        )
        for work in (*background, executor.run()):
            task = asyncio.create_task(work)
            task.add_done_callback(_tell_end)
            stack.push_async_callback(_cancelled, task)
        stack.push_async_callback(executor.stop, options.grace)
        yield app


def open_data(options: ServerOptions) -> Storage:
    """Make the data folder, and open the database. Raises :class:`~aurora_pool.errors.ConfigError`."""
    try:
        options.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"{options.data}: the folder can't be made ({error.strerror})") from error
    return Storage(options.database_url)


def _around(gatekeeper: Gatekeeper, body_bytes: int, pages: Pages, arrived: Callable[[web.Request], None]) -> Any:
    word = functools.partial(_word, pages)

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        """Find out who asks, and word errors as the API does, or as a page."""
        began = time.monotonic()
        arrived(request)
        response: web.StreamResponse
        try:
            if not is_open(request):
                set_caller(request, await gatekeeper.admit(request))
            response = await handler(request)
        except ApiError as error:
            response = word(request, error)
        except web.HTTPRequestEntityTooLarge:
            response = word(request, too_large(body_bytes))
        except web.HTTPException as error:
            response = word(request, of_http_exception(error))
        except (SQLAlchemyError, OSError) as error:
            if not (isinstance(error, ConnectionError) and _is_gone(request)):
                logger.warning("%s %s failed: %s", request.method, request.path, error)
            response = word(request, unavailable("The server's storage can't be used now."))
        except Exception:
            logger.exception("%s %s failed, because of a defect", request.method, request.path)
            response = word(request, ApiError(500, "The server had an error.", kind="server_error"))
        logger.debug("%s %s %d %.3f s", request.method, request.path, response.status, time.monotonic() - began)
        return response

    return around


def _word(pages: Pages, request: web.Request, error: ApiError) -> web.Response:
    if request.writer.output_size and request.transport is not None:
        request.transport.abort()  # a reply has begun: it is cut, lest anybody take it for whole
    return pages.tell(request, error) if request.path.startswith(UI) else error.response()


def _is_gone(request: web.Request) -> bool:
    """Whether the client has closed the connection."""
    return request.transport is None or request.transport.is_closing()


async def _every(seconds: float, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except (SQLAlchemyError, OSError) as error:
            logger.warning("the database can't be used: %s", error)


def _tell_end(task: asyncio.Task[None]) -> None:
    """Say that work in the background has ended by an error: else it would not be seen until the server stops."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s ended, because of a defect", task.get_coro(), exc_info=error)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _lock(database: Path) -> Callable[[], None]:
    """Keep other servers off a SQLite database."""
    path = database.with_name(database.name + ".lock")
    try:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT, mode=0o600)
    except OSError as error:
        raise ConfigError(f"{path}: the lock can't be taken ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError(
            f"{database}: another server uses this database; several can share a PostgreSQL database"
        ) from error
    return lambda: os.close(descriptor)
