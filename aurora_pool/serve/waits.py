"""Why a batch waits that could go on: its user's tokens of the day are used up."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import RowMapping

from aurora_pool.serve.keys import Caller, KeyRing
from aurora_pool.serve.limits import TokenAccounts


class Waits:
    """Finds the reasons, for those who show batches."""

    def __init__(self, accounts: TokenAccounts, keys: KeyRing) -> None:
        self._accounts = accounts
        self._keys = keys

    async def reasons(self, rows: Iterable[RowMapping], caller: Caller) -> dict[str, str]:
        """Say, by user, why batches of these rows wait; users whose batches go on are left out."""
        users = {row["user"] for row in rows if row["status"] == "in_progress"}
        limits = {caller.user: caller.limits}
        if others := users - limits.keys():
            limits |= {user: each for user, (_, each) in (await self._keys.weights(others)).items()}
        reasons = {user: await self._accounts.used_up(user, limits[user]) for user in users}
        return {user: reason for user, reason in reasons.items() if reason is not None}
