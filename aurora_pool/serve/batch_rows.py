"""The rows of batches, and how the API shows them.

Whoever holds a row's lease moves it on from state to state (:mod:`aurora_pool.wire.batch_states`); ``epoch`` counts the
leases, and every change names it, so that a holder that has lost its lease changes nothing any more.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aurora_pool.serve.errors import not_found
from aurora_pool.serve.keys import Caller
from aurora_pool.serve.tables import batches

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

_TIMES = (
    "created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at",
    "cancelling_at", "cancelled_at",
)  # fmt: skip
_PLAIN = ("id", "endpoint", "input_file_id", "completion_window", "status", "output_file_id", "error_file_id", "model")


async def find_batch(connection: AsyncConnection, batch_id: str, caller: Caller) -> RowMapping:
    """Give a user's batch; administrators have everybody's. Raises :class:`ApiError` (404)."""
    chosen = select(batches).where(batches.c.id == batch_id)
    if not caller.admin:
        chosen = chosen.where(batches.c.user == caller.user)
    row = (await connection.execute(chosen)).mappings().one_or_none()
    if row is None:
        raise not_found("Batch", batch_id)
    return row


def batch_object(row: RowMapping, waits: str | None = None) -> dict[str, Any]:
    """Write a batch as the API shows it; ``aurora_pool`` is this server's own addition.

    ``waits`` says why batches of its user wait, if they do.
    """
    errors = row["errors"]
    return {
        **{name: row[name] for name in (*_PLAIN, *_TIMES)},
        "object": "batch",
        "errors": None if errors is None else {"object": "list", "data": errors},
        "request_counts": {name: row[name] for name in ("total", "completed", "failed")},
        "usage": row["usage"],
        "metadata": row["metadata"],
        "aurora_pool": {
            "user": row["user"],
            "priority": row["priority"],
            "paused": row["paused"],
            "waiting": waits if row["status"] == "in_progress" and not row["paused"] else None,
            "eta_seconds": row["eta"] if row["status"] == "in_progress" else None,
            "requests_per_second": row["rate"] if row["status"] == "in_progress" else None,
        },
    }
