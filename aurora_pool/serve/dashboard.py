"""The dashboard at ``/``: pages for people, from the same data and the same handlers as the API."""

from __future__ import annotations

import statistics
from typing import Any

from aiohttp import web

from aurora_pool.errors import ConfigError
from aurora_pool.serve.access import COOKIE, Gatekeeper, admin_of, caller_of, check_origin
from aurora_pool.serve.bodies import read_form
from aurora_pool.serve.errors import ApiError
from aurora_pool.serve.fleet import ServedFleet
from aurora_pool.serve.gateway import Gateway
from aurora_pool.serve.history import History, Point
from aurora_pool.serve.http_json import query_int
from aurora_pool.serve.keys import KeyRing, Role
from aurora_pool.serve.keys_api import KeysApi
from aurora_pool.serve.options import UserLimits, parse_limit
from aurora_pool.serve.rendering import LOGIN, UI, Pages, Values, see_other

AGENTS_SHOWN = 100
_STATES = ("in service", "probing", "out", "undiscovered")
_RECENT = 60
"""Samples that the table beside the charts sums up: five minutes."""


class Dashboard:
    """The handlers of the pages about the fleet, the playground and keys."""

    def __init__(
        self, pages: Pages, fleet: ServedFleet, gateway: Gateway, history: History, keys: KeyRing, keeper: Gatekeeper
    ) -> None:
        self._pages = pages
        self._fleet = fleet
        self._gateway = gateway
        self._history = history
        self._keys = keys
        self._keys_api = KeysApi(keys)
        self._keeper = keeper

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        return [
            web.get("/", self.front, allow_head=False),
            web.get(UI, self.fleet, allow_head=False),
            web.get(f"{UI}charts", self.charts, allow_head=False),
            web.get(f"{UI}playground", self.playground, allow_head=False),
            web.post(f"{UI}playground/chat", self.chat),
            web.get(f"{UI}keys", self.keys, allow_head=False),
            web.post(f"{UI}keys", self.create_key),
            web.post(f"{UI}keys/{{key_id}}/revoke", self.revoke_key),
            web.get(LOGIN, self.login, allow_head=False),
            web.post(LOGIN, self.log_in),
            web.post(f"{UI}logout", self.log_out),
        ]

    async def front(self, request: web.Request) -> web.Response:
        """Lead to the dashboard."""
        return see_other(UI.removeprefix("/"))

    async def fleet(self, request: web.Request) -> web.StreamResponse:
        """Show the agents, those in trouble first."""
        state = request.query.get("state", "")
        text = request.query.get("q", "").strip().lower()
        number = query_int(request, "page", 1, least=1, most=100_000)

        async def values_of() -> Values:
            agents = self._fleet.statistics()
            chosen = [
                agent
                for agent in agents
                if state in {"", agent.state}
                and (text in str(agent.endpoint).lower() or text in agent.last_error.lower())
            ]
            chosen.sort(key=lambda agent: (agent.state == "in service", str(agent.endpoint)))
            first = (number - 1) * AGENTS_SHOWN
            pools = [pool.statistics() for pool in self._fleet.pools()]
            return {
                "agents": chosen[first : first + AGENTS_SHOWN],
                "chosen": len(chosen),
                "first": first,
                "page": number,
                "pages": max(1, -(-len(chosen) // AGENTS_SHOWN)),
                "total": len(agents),
                "states": {name: sum(agent.state == name for agent in agents) for name in _STATES},
                "in_flight": sum(agent.in_flight for agent in agents),
                "window": sum(agent.window for agent in agents),
                "queued": sum(pool.queued for pool in pools),
                "tokens_per_second": sum(agent.tokens_per_second for agent in agents),
                "streams": self._gateway.streams,
                "models": sorted(self._fleet.models),
                "state": state,
                "q": request.query.get("q", ""),
            }

        return await self._pages.show(request, "fleet.html", values_of)

    async def charts(self, request: web.Request) -> web.StreamResponse:
        """Show throughput and latency over time."""

        async def values_of() -> Values:
            points = list(self._history.points)
            columns = [list(column) for column in zip(*map(_row, points), strict=True)]
            return {"columns": columns, "recent": _recent(points[-_RECENT:]), "minutes": _RECENT * 5 // 60}

        return await self._pages.show(request, "charts.html", values_of)

    async def playground(self, request: web.Request) -> web.Response:
        """Show a form for one chat."""
        return self._pages.render(request, "playground.html", {"models": sorted(self._fleet.models)})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Send the playground's chat to the fleet, as ``/v1/chat/completions`` does."""
        try:
            return await self._gateway.forward(request, "/v1/chat/completions")
        except ApiError as error:
            return error.response()  # its reader is a script

    async def keys(self, request: web.Request) -> web.Response:
        """Show all keys, to administrators."""
        return await self._show_keys(request)

    async def create_key(self, request: web.Request) -> web.Response:
        """Make a key, and show it this once."""
        admin_of(request)
        form = await read_form(request)
        given = {name: str(form.get(name, "")).strip() for name in ("user", "name", "role", "weight", *_LIMITS)}
        try:
            limits = {name: _limit(name, given[name]) for name in _LIMITS if given[name]}
            key, text = await self._keys.create(
                given["user"],
                given["name"],
                role=_ROLES.get(given["role"]),
                weight=_weight(given["weight"]) if given["weight"] else None,
                limits=limits,
            )
        except ConfigError as error:
            return await self._show_keys(request, problem=str(error), given=given, status=400)
        return await self._show_keys(request, created=text, user=key.user)

    async def revoke_key(self, request: web.Request) -> web.Response:
        """Make a key worthless."""
        await self._keys_api.revoke(request)
        return see_other("../../keys")

    async def login(self, request: web.Request) -> web.Response:
        """Show the form for a key."""
        return self._pages.render(request, "login.html", {"problem": None})

    async def log_in(self, request: web.Request) -> web.Response:
        """Keep a good key in a cookie of the pages only, which no other site's request carries."""
        check_origin(request, any_host=True)
        form = await read_form(request)
        text = str(form.get("key", "")).strip()
        if await self._keeper.required() and await self._keys.caller_of(text) is None:
            return self._pages.render(request, "login.html", {"problem": "Nobody has this key."}, 401)
        response = see_other("./")
        # No path: the browser takes the folder of this page, also behind a proxy that has put it elsewhere.
        response.set_cookie(
            COOKIE,
            text,
            httponly=True,
            samesite="Strict",
            secure=request.scheme == "https",
            path=None,  # type: ignore[arg-type]
        )
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        """Forget the key."""
        response = see_other("login")
        response.set_cookie(COOKIE, "", max_age=0, httponly=True, samesite="Strict", path=None)  # type: ignore[arg-type]
        return response

    async def _show_keys(
        self,
        request: web.Request,
        *,
        created: str | None = None,
        user: str | None = None,
        problem: str | None = None,
        given: dict[str, str] | None = None,
        status: int = 200,
    ) -> web.Response:
        admin_of(request)
        values: dict[str, Any] = {
            "keys": sorted(await self._keys.list(), key=lambda key: (key.revoked_at is not None, key.user)),
            "created": created,
            "user": user,
            "problem": problem,
            "given": given or {"user": "", "name": "", "role": "", "weight": "", **dict.fromkeys(_LIMITS, "")},
            "limits": _LIMITS,
            "needed": await self._keeper.required(),
            "own": caller_of(request).user,
        }
        return self._pages.render(request, "keys.html", values, status)


_ROLES: dict[str, Role] = {"user": "user", "admin": "admin"}
_LIMITS = {
    name: name.replace("_", " ").capitalize()
    for name in ("requests_per_minute", "tokens_per_day", "batches_queued", "batches_running")
}
assert set(_LIMITS) == set(UserLimits.__slots__)


def _limit(name: str, text: str) -> int | None:
    try:
        return parse_limit(text)
    except ConfigError as error:
        raise ConfigError(f"{_LIMITS[name]}: {error}") from None


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"weight: expected a number, got {text[:40]!r}") from None


def _row(point: Point) -> tuple[Any, ...]:
    return (
        point.time,
        point.tokens_per_second,
        point.prompts_per_second,
        point.in_flight,
        point.queued,
        point.latency,
        point.online_p50,
        point.online_p95,
    )


def _recent(points: list[Point]) -> list[tuple[str, str, float | None, float | None, float | None]]:
    """Sum up for readers of text: name, unit, least, mean, greatest."""
    rows = []
    for name, unit, values in (
        ("Tokens", "a second", [point.tokens_per_second for point in points]),
        ("Prompts answered", "a second", [point.prompts_per_second for point in points]),
        ("Prompts in flight", "", [float(point.in_flight) for point in points]),
        ("Prompts queued", "", [float(point.queued) for point in points]),
        ("Latency, all prompts", "s", [point.latency for point in points if point.latency is not None]),
        ("Latency, online, median", "s", [point.online_p50 for point in points if point.online_p50 is not None]),
        ("Latency, online, 95%", "s", [point.online_p95 for point in points if point.online_p95 is not None]),
    ):
        summed = (min(values), statistics.fmean(values), max(values)) if values else (None, None, None)
        rows.append((name, unit, *summed))
    return rows
