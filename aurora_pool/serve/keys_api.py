"""Keys over HTTP, for administrators: what ``aurora-pool keys`` does as well."""

from __future__ import annotations

import msgspec
from aiohttp import web

from aurora_pool.errors import ConfigError
from aurora_pool.serve.access import admin_of
from aurora_pool.serve.bodies import read_body
from aurora_pool.serve.described import OBJECT, described
from aurora_pool.serve.errors import bad_request, not_found
from aurora_pool.serve.http_json import decode, encode_reply
from aurora_pool.serve.keys import KeyRing, Role


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    user: str
    name: str = ""
    role: Role | None = None
    weight: float | None = None
    limits: dict[str, int | None] = {}


class KeysApi:
    """The handlers."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        return [
            web.get("/v1/admin/keys", self.list, allow_head=False),
            web.post("/v1/admin/keys", self.create),
            web.delete("/v1/admin/keys/{key_id}", self.revoke),
        ]

    @described(reply=OBJECT)
    async def list(self, request: web.Request) -> web.Response:
        """List all keys, without what makes them work."""
        admin_of(request)
        return encode_reply({"object": "list", "data": await self._keys.list()})

    @described(body=_Create, reply=OBJECT)
    async def create(self, request: web.Request) -> web.Response:
        """Make a key, shown in this reply only; of a user who is there only what is given changes."""
        admin_of(request)
        wanted = decode(await read_body(request), _Create)
        try:
            key, text = await self._keys.create(
                wanted.user, wanted.name, role=wanted.role, weight=wanted.weight, limits=wanted.limits
            )
        except ConfigError as error:
            raise bad_request(str(error)) from None
        return encode_reply({**msgspec.structs.asdict(key), "key": text})

    @described(reply=OBJECT)
    async def revoke(self, request: web.Request) -> web.Response:
        """Make a key worthless."""
        admin_of(request)
        name = request.match_info["key_id"]
        if not await self._keys.revoke(name):
            raise not_found("Key", name)
        return encode_reply({"id": name, "object": "key", "revoked": True})
