"""Webhooks as the OpenAI API has them: endpoints are managed here, events become deliveries."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from sqlalchemy import RowMapping, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from aurora_pool.serve.access import caller_of
from aurora_pool.serve.bodies import read_body
from aurora_pool.serve.delivery import Deliverer
from aurora_pool.serve.described import OBJECT, TEXT, described, limit, page_of
from aurora_pool.serve.errors import ApiError, bad_request, not_found
from aurora_pool.serve.http_json import decode, encode_reply, new_id, page, query_int, read_page
from aurora_pool.serve.storage import Storage
from aurora_pool.serve.tables import deliveries, webhook_endpoints

EVENT_TYPES = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
MOST_ENDPOINTS = 20
DAY = 86_400

_Values: TypeAlias = Mapping[Any, Any]


class _Create(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    url: str
    event_types: list[str]


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None
    url: str | None = None
    event_types: list[str] | None = None


class _Rotate(msgspec.Struct, forbid_unknown_fields=True):
    keep_old_secret_active_for_24_hours: bool = False


class _Test(msgspec.Struct, forbid_unknown_fields=True):
    event_type: str


class WebhooksApi:
    """The handlers."""

    def __init__(self, storage: Storage, deliverer: Deliverer) -> None:
        self._storage = storage
        self._deliverer = deliverer

    def routes(self) -> list[web.RouteDef]:
        """Where the handlers are reached."""
        one = "/v1/webhook_endpoints/{webhook_endpoint_id}"
        return [
            web.get("/v1/webhook_event_types", self.event_types, allow_head=False),
            web.post("/v1/webhook_endpoints", self.create),
            web.get("/v1/webhook_endpoints", self.list, allow_head=False),
            web.get(one, self.retrieve, allow_head=False),
            web.post(one, self.update),
            web.delete(one, self.delete),
            web.post(f"{one}/rotate_secret", self.rotate_secret),
            web.post(f"{one}/test", self.test),
        ]

    @described(reply=OBJECT)
    async def event_types(self, request: web.Request) -> web.Response:
        """List what can be subscribed to."""
        return encode_reply({"object": "list", "data": EVENT_TYPES})

    @described(body=_Create, reply="types.webhooks:WebhookEndpointWithSecret")
    async def create(self, request: web.Request) -> web.Response:
        """Make an endpoint; its signing secret is shown in this reply only."""
        user = caller_of(request).user
        wanted = decode(await read_body(request), _Create)
        self._check(wanted.name, wanted.url, wanted.event_types)
        now = int(time.time())
        values = {
            "id": new_id("we_"),
            "user": user,
            "name": wanted.name,
            "url": wanted.url,
            "event_types": sorted(set(wanted.event_types)),
            "secret": _new_secret(),
            "created_at": now,
            "updated_at": now,
        }
        async with self._storage.write() as connection:
            chosen = select(webhook_endpoints.c.seq).where(webhook_endpoints.c.user == user)
            if len((await connection.execute(chosen)).all()) >= MOST_ENDPOINTS:
                raise bad_request(f"At most {MOST_ENDPOINTS} webhook endpoints can be registered.")
            await connection.execute(insert(webhook_endpoints).values(values))
        return encode_reply({**_endpoint_object(values), "signing_secret": values["secret"]})

    @described(query={"after": TEXT, "limit": limit(100)}, reply=page_of("types.webhooks:WebhookEndpoint"))
    async def list(self, request: web.Request) -> web.Response:
        """List the caller's endpoints."""
        limit = query_int(request, "limit", 20, least=1, most=100)
        user, after = caller_of(request).user, request.query.get("after")
        async with self._storage.read() as connection:
            rows, more = await read_page(
                connection, webhook_endpoints, select(webhook_endpoints), user=user, after=after, limit=limit
            )
        return encode_reply(page([_endpoint_object(row) for row in rows], has_more=more))

    @described(reply="types.webhooks:WebhookEndpoint")
    async def retrieve(self, request: web.Request) -> web.Response:
        """Describe an endpoint."""
        return encode_reply(_endpoint_object(await self._found(request)))

    @described(body=_Update, reply="types.webhooks:WebhookEndpoint")
    async def update(self, request: web.Request) -> web.Response:
        """Change an endpoint's name, address or events."""
        row = await self._found(request)
        wanted = decode(await read_body(request), _Update)
        values: dict[str, Any] = {
            name: value
            for name, value in (("name", wanted.name), ("url", wanted.url), ("event_types", wanted.event_types))
            if value is not None and value != row[name]
        }
        new = {**row, **values}
        self._check(new["name"], new["url"], new["event_types"])
        if values:
            values["updated_at"] = new["updated_at"] = int(time.time())
            await self._write(row, values)
        return encode_reply(_endpoint_object(new))

    @described(reply="types.webhooks:DeletedWebhookEndpoint")
    async def delete(self, request: web.Request) -> web.Response:
        """Delete an endpoint and what is still to be delivered to it."""
        row = await self._found(request)
        async with self._storage.write() as connection:
            await connection.execute(delete(deliveries).where(deliveries.c.endpoint_id == row["id"]))
            await connection.execute(delete(webhook_endpoints).where(webhook_endpoints.c.id == row["id"]))
        return encode_reply({"id": row["id"], "object": "webhook_endpoint.deleted", "deleted": True})

    @described(body=_Rotate, needs_body=False, reply="types.webhooks:WebhookEndpointWithSecret")
    async def rotate_secret(self, request: web.Request) -> web.Response:
        """Give an endpoint a new secret; for a day the old one can sign as well."""
        row = await self._found(request)
        body = await read_body(request)
        wanted = decode(body, _Rotate) if body else _Rotate()
        now = int(time.time())
        keeps = wanted.keep_old_secret_active_for_24_hours
        values = {
            "secret": _new_secret(),
            "old_secret": row["secret"] if keeps else None,
            "old_secret_until": now + DAY if keeps else None,
            "updated_at": now,
        }
        await self._write(row, values)
        new = {**row, **values}
        return encode_reply({**_endpoint_object(new), "signing_secret": new["secret"]})

    @described(body=_Test, reply="types.webhooks:WebhookEndpointTestResult")
    async def test(self, request: web.Request) -> web.Response:
        """Send a sample event now, and tell how the endpoint answered."""
        row = await self._found(request)
        wanted = decode(await read_body(request), _Test)
        if wanted.event_type not in EVENT_TYPES:
            raise _bad_event(wanted.event_type)
        event_id, body = _event(wanted.event_type, "batch_test")
        status, reason = await self._deliverer.post(row, event_id, body)
        if status is None:
            raise bad_request(f"The test could not be delivered: {reason}", code="webhook_test_failed")
        return encode_reply(
            {
                "object": "webhook_endpoint.test",
                "webhook_endpoint_id": row["id"],
                "event_type": wanted.event_type,
                "status_code": status,
                "success": True,
            }
        )

    def _check(self, name: str, url: str, event_types: Sequence[str]) -> None:
        if not 0 < len(name) <= 200:
            raise bad_request("Invalid 'name': expected 1 to 200 characters.", param="name")
        if not event_types:
            raise bad_request("Invalid 'event_types': expected at least one.", param="event_types")
        for event_type in event_types:
            if event_type not in EVENT_TYPES:
                raise _bad_event(event_type)
        try:
            parsed = urlsplit(url)
            known = parsed.hostname and parsed.port != 0 and len(url) <= 2048 and not parsed.username
        except ValueError:
            parsed, known = urlsplit(""), None
        schemes = ("https", "http") if self._deliverer.allows_private else ("https",)
        if not known or parsed.scheme not in schemes:
            raise bad_request(f"Invalid 'url': expected {' or '.join(schemes)}://HOST/PATH.", param="url")

    async def _found(self, request: web.Request) -> RowMapping:
        name = request.match_info["webhook_endpoint_id"]
        chosen = select(webhook_endpoints).where(
            webhook_endpoints.c.id == name, webhook_endpoints.c.user == caller_of(request).user
        )
        async with self._storage.read() as connection:
            row: RowMapping | None = (await connection.execute(chosen)).mappings().one_or_none()
        if row is None:
            raise not_found("WebhookEndpoint", name)
        return row

    async def _write(self, row: RowMapping, values: _Values) -> None:
        async with self._storage.write() as connection:
            chosen = update(webhook_endpoints).where(webhook_endpoints.c.id == row["id"]).values(values)
            await connection.execute(chosen)


async def queue_event(connection: AsyncConnection, user: str, event_type: str, batch_id: str) -> None:
    """Queue an event for delivery, in the transaction of what it tells of."""
    chosen = select(webhook_endpoints).where(webhook_endpoints.c.user == user)
    now = int(time.time())
    for row in (await connection.execute(chosen)).mappings().all():
        if event_type in row["event_types"]:
            event_id, body = _event(event_type, batch_id)
            values = {
                "id": event_id,
                "endpoint_id": row["id"],
                "body": body,
                "created_at": now,
                "attempts": 0,
                "due_at": float(now),
            }
            await connection.execute(insert(deliveries).values(values))


def _event(event_type: str, batch_id: str) -> tuple[str, str]:
    event_id = new_id("evt_")
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(time.time()),
        "type": event_type,
        "data": {"id": batch_id},
    }
    return event_id, msgspec.json.encode(event).decode()


def _new_secret() -> str:
    """Make a secret that every Standard Webhooks library reads in the same way."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _endpoint_object(row: _Values) -> dict[str, Any]:
    return {
        "id": row["id"],
        "object": "webhook_endpoint",
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "event_types": row["event_types"],
        "name": row["name"],
        "url": row["url"],
        "signing_secret_hint": f"whsec_...{row['secret'][-4:]}",
    }


def _bad_event(event_type: str) -> ApiError:
    message = f"Invalid event type {event_type[:60]!r}: expected one of {', '.join(EVENT_TYPES)}."
    return bad_request(message, param="event_types")
