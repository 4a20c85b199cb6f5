"""The database's tables. A change here needs a migration in ``migrations/versions``; a test compares the two."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself only in a column declared INTEGER."""


def _sequence() -> Column[int]:
    """Number the rows in the order of their creation: lists are paged by it."""
    return Column("seq", _SEQUENCE, primary_key=True, autoincrement=True)


users = Table(
    "users",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("weight", Float, nullable=False),
    Column("limits", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    _sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("user", String(64), ForeignKey("users.name"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("hint", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

token_days = Table(
    "token_days",
    metadata,
    Column("user", String(64), primary_key=True),
    Column("day", Integer, primary_key=True),
    Column("tokens", BigInteger, nullable=False),
)

files = Table(
    "files",
    metadata,
    _sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("user", String(64), nullable=False, index=True),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, index=True),
)

batches = Table(
    "batches",
    metadata,
    _sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("user", String(64), nullable=False, index=True),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("completion_window", String(32), nullable=False),
    Column("output_expires_after", Integer),
    Column("metadata", JSON),
    Column("model", Text),
    Column("plain", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("total", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("eta", Float),
    Column("rate", Float),
    Column("charged", BigInteger, nullable=False, server_default="0"),
    Column("usage", JSON),
    Column("errors", JSON),
    Column("output_file_id", String(64)),
    Column("error_file_id", String(64)),
    Column("owner", String(64)),
    Column("lease_until", Float),
    Column("epoch", Integer, nullable=False),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    _sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("user", String(64), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("url", Text, nullable=False),
    Column("event_types", JSON, nullable=False),
    Column("secret", String(128), nullable=False),
    Column("old_secret", String(128)),
    Column("old_secret_until", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    _sequence(),
    Column("id", String(64), nullable=False, unique=True),
    Column("endpoint_id", String(64), nullable=False, index=True),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, index=True),
    Column("delivered_at", BigInteger),
    Column("last_error", Text),
)
