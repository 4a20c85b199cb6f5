"""What Alembic runs for every command: on the connection that :func:`aurora_pool.serve.migrate.upgrade` gives."""

from __future__ import annotations

from alembic import context

from aurora_pool.serve.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
