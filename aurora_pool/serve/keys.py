"""Users and their keys. A key is shown once; the database holds its HMAC with the server's secret, and no more."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec
from sqlalchemy import Row, func, insert, select, update

from aurora_pool.errors import ConfigError
from aurora_pool.serve.http_json import new_id
from aurora_pool.serve.options import UserLimits
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import keys, users

T = TypeVar("T")

logger = logging.getLogger("aurora_pool")

Role: TypeAlias = Literal["user", "admin"]

SECRET_VARIABLE = "AURORA_POOL_SECRET"  # noqa: S105 - a name
SECRET = "secret"  # noqa: S105 - the name of its file
PREFIX = "ap-"
REMEMBERED = 5.0
"""Seconds that a key's user is remembered, so at most so long a revoked key still works."""

_MOST_REMEMBERED = 10_000
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)


class Caller(msgspec.Struct, frozen=True):
    """Who makes a request."""

    user: str
    admin: bool
    weight: float
    limits: UserLimits


class IssuedKey(msgspec.Struct, frozen=True):
    """A key without its secret part. ``limits`` are its user's own, None for no limit; the others are the server's."""

    id: str
    user: str
    role: Role
    name: str
    hint: str
    created_at: int
    revoked_at: int | None
    weight: float
    limits: dict[str, int | None]


def load_secret(folder: Path) -> bytes:
    """Give the server's secret: of the environment, or of a file that is made here when it is not there.

    Raises :class:`~aurora_pool.errors.ConfigError` for one that is too short.
    """
    text = os.environ.get(SECRET_VARIABLE)
    if text is not None:
        if len(text) < 32:
            raise ConfigError(f"{SECRET_VARIABLE}: expected at least 32 characters")
        return text.encode()
    path = folder / SECRET
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) < 32:
            raise ConfigError(f"{path}: the server's secret is damaged; take it from a backup") from None
        return found
    with os.fdopen(descriptor, "wb") as file:
        created = secrets.token_bytes(32)
        file.write(created)
        file.flush()
        os.fsync(descriptor)
    return created


async def open_keys(storage: Storage, folder: Path, defaults: UserLimits) -> KeyRing:
    """Give the keys of a server, with its secret; warn if that was lost, and a new one made.

    Raises :class:`~aurora_pool.errors.ConfigError` for a secret that is too short.
    """
    is_created = SECRET_VARIABLE not in os.environ and not (folder / SECRET).exists()
    keys = KeyRing(storage, load_secret(folder), defaults)
    if is_created and await keys.exist():
        logger.warning(
            "%s was missing and is created anew, so no key of before works: put it back from a backup, or make others",
            folder / SECRET,
        )
    return keys


class KeyRing:
    """Issues keys, and tells whose they are."""

    def __init__(self, storage: Storage, secret: bytes, defaults: UserLimits) -> None:
        self._storage = storage
        self._secret = secret
        self._defaults = defaults
        self._remembered: dict[str, tuple[float, Caller | None]] = {}
        self._exist: tuple[float, bool] = (0.0, False)
        self._running: dict[str, asyncio.Task[Any]] = {}

    async def create(
        self,
        user: str,
        name: str = "",
        *,
        role: Role | None = None,
        weight: float | None = None,
        limits: Mapping[str, int | None] | None = None,
    ) -> tuple[IssuedKey, str]:
        """Make a key; return it and its text, which nothing can show again.

        The user is made where there is none yet, by default as a plain user of weight 1. Of a user who is there
        only what is given changes: ``role``, ``weight``, and each limit that ``limits`` names; None lifts it.
        Raises :class:`~aurora_pool.errors.ConfigError`.
        """
        if not _USER.fullmatch(user):
            raise ConfigError(f"user: expected letters, digits and ._@- (64 at most), got {user!r}")
        if weight is not None and not 0 < weight <= 1000:
            raise ConfigError(f"weight: expected a number above 0 and at most 1000, got {weight!r}")
        unknown = set(limits or ()) - set(asdict(self._defaults))
        if unknown:
            raise ConfigError(f"limits: there is no {min(unknown)!r}")
        text = PREFIX + secrets.token_urlsafe(32)
        now = int(time.time())
        key_id, name, hint = new_id("key_"), name[:200], text[-4:]
        async with self._storage.write() as connection:
            chosen = select(users).where(users.c.name == user).with_for_update()
            old = (await connection.execute(chosen)).one_or_none()
            if role is None:
                role = "user" if old is None else old.role
            if weight is None:
                weight = 1.0 if old is None else old.weight
            own: dict[str, int | None] = {**(old.limits if old else {}), **(limits or {})}
            values = {"role": role, "weight": weight, "limits": own}
            if old is None:
                await connection.execute(insert(users).values(name=user, created_at=now, **values))
            else:
                await connection.execute(update(users).where(users.c.name == user).values(values))
            await connection.execute(
                insert(keys).values(id=key_id, user=user, name=name, hash=self._hash(text), hint=hint, created_at=now)
            )
        self._exist = (0.0, True)
        self._remembered.clear()
        return IssuedKey(key_id, user, role, name, hint, now, None, weight, own), text

    async def list(self) -> list[IssuedKey]:
        """All keys, the oldest first."""
        chosen = (
            select(keys, users.c.role, users.c.weight, users.c.limits)
            .join(users, users.c.name == keys.c.user)
            .order_by(keys.c.seq)
        )
        async with self._storage.read() as connection:
            rows = (await connection.execute(chosen)).all()
        fields = IssuedKey.__struct_fields__
        return [IssuedKey(**{name: getattr(row, name) for name in fields}) for row in rows]

    async def revoke(self, key_id: str) -> bool:
        """Make a key worthless; return whether there was such a key."""
        chosen = (
            update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=int(time.time()))
        )
        async with self._storage.write() as connection:
            changed = (await connection.execute(chosen)).rowcount
        self._remembered.clear()
        return bool(changed)

    async def exist(self) -> bool:
        """Whether there is any key that is not revoked."""
        until, found = self._exist
        return found if time.monotonic() < until else await self._once("", self._query_any)

    async def _query_any(self) -> bool:
        async with self._storage.read() as connection:
            count = select(func.count()).select_from(keys).where(keys.c.revoked_at.is_(None))
            found = bool((await connection.execute(count)).scalar_one())
        self._exist = (time.monotonic() + REMEMBERED, found)
        return found

    async def caller_of(self, text: str) -> Caller | None:
        """Tell who has this key; None if nobody has."""
        wanted = self._hash(text)
        until, caller = self._remembered.get(wanted, (0.0, None))
        if time.monotonic() < until:
            return caller
        return await self._once(wanted, functools.partial(self._query_caller, wanted))

    async def _query_caller(self, wanted: str) -> Caller | None:
        until = time.monotonic() + REMEMBERED
        chosen = (
            select(keys.c.hash, users)
            .join(users, users.c.name == keys.c.user)
            .where(keys.c.hash == wanted, keys.c.revoked_at.is_(None))
        )
        async with self._storage.read() as connection:
            row = (await connection.execute(chosen)).one_or_none()
        # The search went by an HMAC that only this server can make, so its time tells nothing of any key.
        caller = self._caller(row) if row is not None and hmac.compare_digest(row.hash, wanted) else None
        if len(self._remembered) >= _MOST_REMEMBERED:
            self._remembered.clear()
        self._remembered[wanted] = (until, caller)
        return caller

    async def _once(self, name: str, query: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Look something up once for all who ask meanwhile: many requests find the memory expired at one moment."""
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.create_task(query())
            running.add_done_callback(lambda _: self._running.pop(name, None))
        found: T = await asyncio.shield(running)
        return found

    async def weights(self, names: Set[str]) -> dict[str, tuple[float, UserLimits]]:
        """The weight and the limits of each of these users, who need not have a key."""
        async with self._storage.read() as connection:
            rows = (await connection.execute(select(users).where(users.c.name.in_(names)))).all()
        known = {row.name: (row.weight, self._limits(row)) for row in rows}
        return {name: known.get(name, (1.0, self._defaults)) for name in names}

    async def weight_of(self, user: str) -> float:
        """A user's weight; 1 for one who never had a key."""
        async with self._storage.read() as connection:
            found = (await connection.execute(select(users.c.weight).where(users.c.name == user))).scalar_one_or_none()
        return 1.0 if found is None else found

    def _caller(self, row: Row[Any]) -> Caller:
        return Caller(row.name, row.role == "admin", row.weight, self._limits(row))

    def _limits(self, row: Row[Any]) -> UserLimits:
        known = asdict(self._defaults)
        return UserLimits(**{**known, **{name: value for name, value in row.limits.items() if name in known}})

    def _hash(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
