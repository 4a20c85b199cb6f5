"""All commands in one application."""

from __future__ import annotations

from aurora_pool.cli.commands import application

app = application()
