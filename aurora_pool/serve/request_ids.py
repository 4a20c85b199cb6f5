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
    found = request.get(_KEPT)
    if found is None:
        given = request.headers.get(REQUEST_ID, "")
        found = request[_KEPT] = given if _FORM.fullmatch(given) else f"{_random.getrandbits(128):032x}"
    return found
