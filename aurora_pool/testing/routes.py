"""Which paths a server of a given version and configuration has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from aurora_pool.testing import routes_other as other
from aurora_pool.testing.backend import Backend
from aurora_pool.testing.exchange import Exchange
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.routes_chat import batch_chat_completions, chat_completions
from aurora_pool.testing.routes_completions import completions

Route: TypeAlias = Callable[[Backend, Exchange], Awaitable[web.StreamResponse]]


def routes_of(profile: AgentProfile) -> dict[str, dict[str, Route]]:
    """Map each path to its methods."""
    routes: dict[str, dict[str, Route]] = {
        "/v1/completions": {"POST": completions},
        "/v1/chat/completions": {"POST": chat_completions},
        "/v1/embeddings": {"POST": other.embeddings},
        "/tokenize": {"POST": other.tokenize},
        "/detokenize": {"POST": other.detokenize},
        "/v1/models": {"GET": other.models},
        "/health": {"GET": other.health},
        "/ping": {"GET": other.health, "POST": other.health},
        "/version": {"GET": other.version},
        "/load": {"GET": other.load},
        "/metrics": {"GET": other.metrics},
    }
    if profile.at_least(0, 19):
        routes["/v1/chat/completions/batch"] = {"POST": batch_chat_completions}
    if profile.dev_mode:
        for path in ("/sleep", "/pause"):
            routes[path] = {"POST": other.sleep}
        for path in ("/wake_up", "/resume"):
            routes[path] = {"POST": other.wake}
        for path in ("/is_sleeping", "/is_paused"):
            routes[path] = {"GET": other.is_asleep}
    return routes
