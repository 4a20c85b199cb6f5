"""Delivers webhooks: at least once, with growing pauses over a day, and never to where they should not go."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import deliveries, webhook_endpoints

PAUSES = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 36000)
"""Seconds before the second and every further attempt; after the last one a delivery is given up."""
CLAIMED = 90.0
"""Seconds that an attempt may take before another replica makes it again."""
TIMEOUT = 20.0
POLL_EVERY = 1.0
AT_ONCE = 16
SWEEP_EVERY = 3600.0
KEPT = 7 * 86_400
"""Seconds that a delivery that has ended is kept."""

logger = logging.getLogger("aurora_pool")


class RefusedAddress(OSError):
    """A webhook's host has an address that is not to be reached."""


class Deliverer:
    """Sends what waits to be delivered."""

    def __init__(self, storage: Storage, *, allows_private: bool) -> None:
        self.allows_private = allows_private
        self._storage = storage
        self._session: aiohttp.ClientSession | None = None
        self._woken = asyncio.Event()
        self._swept = 0.0

    def wake(self) -> None:
        """Say that something may be due."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver, for ever."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                self._woken.clear()
                try:
                    await self._round(running)
                except (SQLAlchemyError, OSError) as error:
                    logger.warning("webhooks wait, for the database can't be used: %s", error)
                try:
                    async with asyncio.timeout(POLL_EVERY):
                        await self._woken.wait()
                except TimeoutError:
                    continue
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, endpoint: Mapping[Any, Any], event_id: str, body: str) -> tuple[int | None, str]:
        """Send one event; return the status that came back, or None and why there is none."""
        url = endpoint["url"]
        try:
            self._check_literal(url)
            headers = {"Content-Type": "application/json", **sign(endpoint, event_id, body)}
            async with self._open().post(url, data=body.encode(), headers=headers, allow_redirects=False) as reply:
                return reply.status, f"status {reply.status}"
        except RefusedAddress as error:
            return None, str(error)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refused = error.__cause__ if isinstance(error.__cause__, RefusedAddress) else None
            return None, str(refused or error) or type(error).__name__

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = None if self.allows_private else PublicResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=AT_ONCE * 2, resolver=resolver, ttl_dns_cache=0),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "aurora-pool"},
            )
        return self._session

    def _check_literal(self, url: str) -> None:
        """An address in the URL itself is never resolved, so it is checked here."""
        host = urlsplit(url).hostname or ""
        try:
            address = ip_address(host)
        except ValueError:
            return
        if not self.allows_private and not is_public(address):
            raise RefusedAddress(f"{host} is no public address")

    async def _round(self, running: set[asyncio.Task[None]]) -> None:
        for delivery, endpoint in await self._claim(AT_ONCE - len(running)):
            task = asyncio.create_task(self._deliver(delivery, endpoint))
            running.add(task)
            task.add_done_callback(running.discard)
        if time.time() - self._swept > SWEEP_EVERY:
            await self._sweep()
            self._swept = time.time()

    async def _claim(self, count: int) -> list[tuple[Mapping[Any, Any], Mapping[Any, Any]]]:
        if count <= 0:
            return []
        now = time.time()
        columns = deliveries.c
        due = (columns.delivered_at.is_(None)) & (columns.due_at <= now)
        async with self._storage.read() as connection:
            if (await connection.execute(select(columns.seq).where(due).limit(1))).first() is None:
                return []
        async with self._storage.write() as connection:
            first = (
                select(columns.seq).where(due).order_by(columns.due_at).limit(count).with_for_update(skip_locked=True)
            )
            # The attempt is noted before it is made: one that a kill ends is made again after a while.
            chosen = (
                update(deliveries)
                .where(columns.seq.in_(first))
                .values(due_at=now + CLAIMED, attempts=columns.attempts + 1)
                .returning(deliveries)
            )
            taken = (await connection.execute(chosen)).mappings().all()
            names = {row["endpoint_id"] for row in taken}
            found = select(webhook_endpoints).where(webhook_endpoints.c.id.in_(names))
            endpoints = {row["id"]: row for row in (await connection.execute(found)).mappings()}
        return [(row, endpoints[row["endpoint_id"]]) for row in taken if row["endpoint_id"] in endpoints]

    async def _deliver(self, delivery: Mapping[Any, Any], endpoint: Mapping[Any, Any]) -> None:
        status, reason = await self.post(endpoint, delivery["id"], delivery["body"])
        now = time.time()
        values: dict[str, Any]
        if status is not None and 200 <= status < 300:
            values = {"delivered_at": int(now), "due_at": None, "last_error": None}
        else:
            attempts = delivery["attempts"]
            pause = PAUSES[attempts - 1] if attempts <= len(PAUSES) else None
            values = {"due_at": None if pause is None else now + pause, "last_error": reason[:500]}
            logger.warning("webhook %s, attempt %d: %s", endpoint["id"], attempts, reason)
        try:
            async with self._storage.write() as connection:
                await connection.execute(update(deliveries).where(deliveries.c.id == delivery["id"]).values(values))
        except (SQLAlchemyError, OSError) as error:
            logger.warning("webhook %s: what came of it can't be noted, so it is sent again: %s", endpoint["id"], error)

    async def _sweep(self) -> None:
        ended = deliveries.c.due_at.is_(None) & (deliveries.c.created_at < time.time() - KEPT)
        async with self._storage.write() as connection:
            await connection.execute(delete(deliveries).where(ended))


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those with an address that is not public.

    The connection is made to the very addresses that were checked, so a name that changes in between gains nothing.
    """

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises :class:`RefusedAddress`."""
        found = await self._inner.resolve(host, port, family)
        for each in found:
            if not is_public(ip_address(each["host"].partition("%")[0])):
                raise RefusedAddress(f"{host} has the address {each['host']}, which is not public")
        return found

    async def close(self) -> None:
        """Nothing."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is on the public internet.

    >>> is_public(ip_address("127.0.0.1")), is_public(ip_address("::ffff:10.0.0.1")), is_public(ip_address("8.8.8.8"))
    (False, False, True)
    """
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    return inner.is_global and not inner.is_multicast and not inner.is_reserved


def sign(endpoint: Mapping[Any, Any], event_id: str, body: str) -> dict[str, str]:
    """Sign an event as Standard Webhooks wants it, by the old secret too while that is good."""
    now = datetime.now(tz=UTC)
    good = [endpoint["secret"]]
    if endpoint["old_secret"] and (endpoint["old_secret_until"] or 0) > now.timestamp():
        good.append(endpoint["old_secret"])
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, now, body) for secret in good),
    }
