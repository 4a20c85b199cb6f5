"""Why a batch waits that could go on: its user's tokens of the day are used up."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import RowMapping

from aurora_pool.serve.keys import Caller, KeyRing
from aurora_pool.serve.limits import TokenAccounts
from aurora_pool.serve.options import UserLimits
from aurora_pool.wire.batch_states import RUNNABLE


class Waits:
    """Finds the reasons, for those who show batches."""

    def __init__(self, accounts: TokenAccounts, keys: KeyRing, defaults: UserLimits) -> None:
        self._accounts = accounts
        self._keys = keys
        self._defaults = defaults

    async def reasons(self, rows: Iterable[RowMapping], caller: Caller) -> dict[str, str]:
        """Say, by user, why batches of these rows wait; users whose batches go on are left out."""
        users = {row["user"] for row in rows if row["status"] in RUNNABLE}
        known = {caller.user: caller.limits}
        if not users <= known.keys():
            known |= {user: limits for user, (_, limits) in (await self._keys.weights()).items()}
        reasons = {user: await self._accounts.used_up(user, known.get(user, self._defaults)) for user in users}
        return {user: reason for user, reason in reasons.items() if reason is not None}
