"""Which paths a server of a given version and configuration has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import web

from aurora_pool.testing.exchange import Exchange
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.routes_completions import completions

if TYPE_CHECKING:
    from aurora_pool.testing.server import AgentServer

Route: TypeAlias = "Callable[[AgentServer, Exchange], Awaitable[web.StreamResponse]]"


def routes_of(profile: AgentProfile) -> dict[str, dict[str, Route]]:
    """Map each path to its methods."""
    return {"/v1/completions": {"POST": completions}}
