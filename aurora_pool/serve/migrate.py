"""Migrations of the database by Alembic, shipped with the package and run when the server starts.

To change the tables: change ``tables.py`` and add a file to ``migrations/versions`` in the chain of ``down_revision``;
the tests compare what the migrations make with what ``tables.py`` says.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from aurora_pool.errors import ConfigError


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the database to a revision, on an open connection.

    Raises :class:`~aurora_pool.errors.ConfigError` for a database that a newer version of this package has changed.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    if connection.dialect.name == "postgresql":
        # Replicas that start together take turns.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(20614971)")
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigError(f"the database is of another version of aurora-pool: {error}") from error
