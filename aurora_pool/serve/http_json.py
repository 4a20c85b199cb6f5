"""What requests and replies have in common: reading bodies and queries, writing objects and pages, ids."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from sqlalchemy import RowMapping, Select, Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from aurora_pool.serve.errors import ApiError, bad_request

T = TypeVar("T")

_WHERE = re.compile(r" - at `\$\.?(.*)`$")
_DURATION = re.compile(r"([1-9]\d{0,8})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 366 * 86400


def new_id(prefix: str) -> str:
    """Make an id that nobody can guess."""
    return prefix + secrets.token_hex(16)


def decode(body: bytes, kind: type[T]) -> T:
    """Read a JSON body. Raises :class:`ApiError` that names the parameter at fault."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        where = _WHERE.search(message)
        message = _WHERE.sub("", message)
        named = re.search(r"field `(\w+)`", message)
        param = where[1] if where and where[1] else named[1] if named else None
        raise bad_request(f"Invalid request: {message}" + (f" ('{param}')" if param else ""), param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"We could not parse the JSON body of your request: {error}") from None


def encode_reply(content: Any, status: int = 200) -> web.Response:
    """Write a JSON reply."""
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


def query_int(request: web.Request, name: str, default: int, *, least: int, most: int) -> int:
    """Read a whole number of the query."""
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,15}", text, re.ASCII) or not least <= int(text) <= most:
        raise bad_request(f"Invalid '{name}': expected a whole number from {least} to {most}.", param=name)
    return int(text)


def query_choice(request: web.Request, name: str, choices: Sequence[str], default: str) -> str:
    """Read a word of the query."""
    text = request.query.get(name, default)
    if text not in choices:
        raise bad_request(f"Invalid '{name}': expected one of {', '.join(choices)}.", param=name)
    return text


def parse_duration(text: str, param: str) -> int:
    """Read a length of time such as ``24h`` or ``7d``, in seconds.

    >>> parse_duration("24h", "completion_window")
    86400
    """
    match = _DURATION.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST:
        raise bad_request(f"Invalid '{param}': expected a time such as '24h' or '7d', got {text[:40]!r}.", param=param)
    return seconds


async def read_page(
    connection: AsyncConnection,
    table: Table,
    chosen: Select[Any],
    *,
    user: str | None,
    after: str | None,
    limit: int,
    ascending: bool = False,
) -> tuple[list[RowMapping], bool]:
    """Read a page of a user's rows, newest first, and whether there is more; a ``user`` of None is everybody.

    ``after`` is the id before the page, and one of these rows too: an id of another user is as unknown as any.
    """
    columns = table.c
    if user is not None:
        chosen = chosen.where(columns.user == user)
    if after is not None:
        before = select(columns.seq).where(columns.id == after)
        if user is not None:
            before = before.where(columns.user == user)
        seq = (await connection.execute(before)).scalar_one_or_none()
        if seq is None:
            raise ApiError(404, f"No such object: {after}", param="after")
        chosen = chosen.where(columns.seq > seq if ascending else columns.seq < seq)
    order = columns.seq.asc() if ascending else columns.seq.desc()
    rows = list((await connection.execute(chosen.order_by(order).limit(limit + 1))).mappings())
    return rows[:limit], len(rows) > limit


def page(objects: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """Write a page of a list."""
    first, last = (objects[0]["id"], objects[-1]["id"]) if objects else (None, None)
    return {"object": "list", "data": objects, "first_id": first, "last_id": last, "has_more": has_more}
