"""``X-Request-Id``: kept where the client gives one, made where not, and in every reply."""

from __future__ import annotations

import random
import re

from aiohttp import web

REQUEST_ID = "X-Request-Id"

_KEPT = web.RequestKey("request_id", str)
# The id of a request is no secret, and the system's own source costs ten times as much.
_random = random.Random()
_FORM = re.compile(r"[\x21-\x7e]{1,128}")


def request_id_of(request: web.Request) -> str:
    """Give the id of a request."""
    if _KEPT in request:
        return request[_KEPT]
    given = request.headers.get(REQUEST_ID)
    kept = given is not None and _FORM.fullmatch(given) is not None
    found = request[_KEPT] = str(given) if kept else f"{_random.getrandbits(128):032x}"
    return found
