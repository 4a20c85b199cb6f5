"""What users may use up: requests a minute and tokens a day."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from aurora_pool.errors import counted
from aurora_pool.messages import Usage
from aurora_pool.serve.errors import ApiError
from aurora_pool.serve.keys import Caller
from aurora_pool.serve.options import UserLimits
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import token_days

DAY = 86_400
REFRESH = 5.0
"""Seconds between two reads of what a user has used up, which other replicas count as well."""


class RequestRates:
    """Requests a minute, by user: a bucket that holds a minute's requests and fills steadily. Pure."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, user: str, per_minute: int, now: float) -> float:
        """Count one request; return 0, or the seconds after which it is within the limit.

        >>> rates = RequestRates()
        >>> rates.take("ann", 1, 0.0), rates.take("ann", 1, 0.0), rates.take("ann", 1, 60.0)
        (0.0, 60.0, 0.0)
        """
        level, since = self._buckets.get(user, (float(per_minute), now))
        level = min(float(per_minute), level + (now - since) * per_minute / 60.0)
        if level < 1.0:
            self._buckets[user] = (level, now)
            return (1.0 - level) * 60.0 / per_minute if per_minute else 60.0
        self._buckets[user] = (level - 1.0, now)
        return 0.0


class TokenAccounts:
    """Tokens a day (UTC), by user; counted in memory and written by :meth:`flush`."""

    def __init__(self, storage: Storage, now: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._now = now
        self._unwritten: Counter[tuple[str, int]] = Counter()
        self._in_writing: Counter[tuple[str, int]] = Counter()
        self._using = asyncio.Lock()  # what is written while this reads could be counted twice, or not at all
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def charge(self, user: str, tokens: int) -> None:
        """Count what a reply used up."""
        if tokens:
            self._unwritten[user, int(self._now() // DAY)] += tokens

    async def used(self, user: str) -> int:
        """How many tokens the user has used up today."""
        key = (user, int(self._now() // DAY))
        if self._is_old(key) and not (self._in_writing and key in self._seen):  # what waits for a lock holds up none
            async with self._using:
                if self._is_old(key):  # not if another request has read it meanwhile
                    await self._read(key)
        return self._seen[key][1] + self._unwritten[key] + self._in_writing[key]

    async def used_up(self, user: str, limits: UserLimits) -> str | None:
        """Say which limit is reached, if the user has used up today's tokens."""
        most = limits.tokens_per_day
        if most is None or await self.used(user) < most:
            return None
        return f"Limit of {counted(most, 'token')} a day reached."

    def _is_old(self, key: tuple[str, int]) -> bool:
        read_at, _ = self._seen.get(key, (0.0, 0))
        return self._now() - read_at > REFRESH

    async def _read(self, key: tuple[str, int]) -> None:
        user, day = key
        chosen = select(token_days.c.tokens).where(token_days.c.user == user, token_days.c.day == day)
        read_at = self._now()
        async with self._storage.read() as connection:
            tokens = (await connection.execute(chosen)).scalar_one_or_none() or 0
        self._seen = {old: value for old, value in self._seen.items() if old[1] == day}
        self._seen[key] = (read_at, tokens)

    async def flush(self) -> None:
        """Write what was counted since the last time."""
        async with self._using:
            taken, self._unwritten = self._unwritten, Counter()
            if not taken:
                return
            self._in_writing = taken
            try:
                await self._write(taken)
            except BaseException:
                self._unwritten.update(taken)
                raise
            finally:
                self._in_writing = Counter()
            for key, tokens in taken.items():
                read_at, seen = self._seen.get(key, (0.0, 0))
                self._seen[key] = (read_at, seen + tokens)

    async def _write(self, taken: Counter[tuple[str, int]]) -> None:
        build = sqlite.insert if self._storage.is_sqlite else postgresql.insert
        async with self._storage.write() as connection:
            for (user, day), tokens in taken.items():
                new = build(token_days).values(user=user, day=day, tokens=tokens)
                total = token_days.c.tokens + new.excluded.tokens
                await connection.execute(
                    new.on_conflict_do_update(index_elements=["user", "day"], set_={"tokens": total})
                )


class Limiter:
    """Refuses what is above a user's limits, as the OpenAI API does."""

    def __init__(self, accounts: TokenAccounts) -> None:
        self._accounts = accounts
        self._rates = RequestRates()

    async def check(self, caller: Caller) -> None:
        """Count a request. Raises :class:`ApiError` (429) for one too many."""
        limits = caller.limits
        if limits.requests_per_minute is not None:
            wait = self._rates.take(caller.user, limits.requests_per_minute, time.monotonic())
            if wait:
                raise too_many(f"Limit of {counted(limits.requests_per_minute, 'request')} a minute reached.", wait)
        reason = await self._accounts.used_up(caller.user, limits)
        if reason is not None:
            raise too_many(reason, DAY - time.time() % DAY)

    def charge(self, caller: Caller, usage: Usage | None) -> None:
        """Count the tokens of a reply, for users whose tokens are limited."""
        if usage is not None and caller.limits.tokens_per_day is not None:
            self._accounts.charge(caller.user, usage.prompt_tokens + usage.completion_tokens)


def too_many(message: str, wait: float) -> ApiError:
    """Say that a limit is reached, and when to come again."""
    headers = {"Retry-After": str(max(1, round(wait)))}
    return ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", headers=headers)
