"""Proxies in front of the server: ``X-Forwarded-*`` is believed of those that were named, and of no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

from aiohttp import web

from aurora_pool.errors import ConfigError

Network: TypeAlias = IPv4Network | IPv6Network


def parse_networks(names: Sequence[str]) -> list[Network]:
    """Read addresses and networks. Raises :class:`~aurora_pool.errors.ConfigError`.

    >>> parse_networks(["10.0.0.0/8", "::1"])
    [IPv4Network('10.0.0.0/8'), IPv6Network('::1/128')]
    """
    found = []
    for name in names:
        try:
            found.append(ip_network(name))
        except ValueError as error:
            raise ConfigError(f"--trusted-proxy {name}: expected an address or a network ({error})") from None
    return found


def believe(networks: Sequence[Network]) -> Any:
    """Make the middleware that puts the client's address, scheme and host where the proxy has told them."""

    def trusted(text: str | None) -> bool:
        try:
            address = ip_address((text or "").strip().strip("[]").partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in networks)

    @web.middleware
    async def forwarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        if not peer or not trusted(peer[0]):
            return await handler(request)
        changes: dict[str, Any] = {}
        # Each proxy adds the address it saw: the client is the last one that is not a named proxy's.
        hops = [hop.strip() for hop in ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")]
        client = next((hop for hop in reversed(hops) if hop and not trusted(hop)), None)
        if client is not None:
            changes["remote"] = client[:64]
        scheme = _last(request, "X-Forwarded-Proto")
        if scheme in {"http", "https"}:
            changes["scheme"] = scheme
        if host := _last(request, "X-Forwarded-Host"):
            changes["host"] = host
        return await handler(request.clone(**changes) if changes else request)

    return forwarded


def _last(request: web.Request, name: str) -> str:
    """Give what the nearest proxy has said."""
    return ",".join(request.headers.getall(name, [])).rpartition(",")[2].strip().lower()
