"""The openai client's own rules of sending again, asked beside ours: where they differ is said here."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx2
import openai
import pytest

from aurora_pool.errors import ServerError
from aurora_pool.policy.outcome import Outcome, as_directed, classify
from aurora_pool.wire.errors import retry_after, should_retry

SENT_AGAIN = {Outcome.OVERLOADED, Outcome.UNREACHABLE, Outcome.DRAINING, Outcome.DEAD, Outcome.BROKEN}
ELSEWHERE = {501, 505}
"""openai asks the same server again for these; ours goes to another, for they say what this one can't do at all."""
NOW = datetime(2026, 11, 5, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def client() -> Iterator[Any]:
    with openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1") as created:
        yield created


def response(status: int, headers: dict[str, str]) -> Any:
    return httpx2.Response(status, headers=headers)


@pytest.mark.parametrize("told", ["true", "false", "", "maybe"])
def test_what_is_sent_again(client: Any, told: str) -> None:
    headers = {"x-should-retry": told} if told else {}
    for status in [400, 408, 409, 413, 422, 425, 429, *range(500, 600)]:
        if status in ELSEWHERE or (status == 425 and told not in ("true", "false")):
            continue
        error = ServerError(status, "Too much", should_retry=should_retry(headers))
        ours = as_directed(error, classify(error, 1)) in SENT_AGAIN
        assert ours == client._should_retry(response(status, headers)), status  # noqa: SLF001 (its rules are nowhere public)


def test_too_early_is_sent_again_by_ours_alone(client: Any) -> None:
    assert classify(ServerError(425, "Too Early"), 1) in SENT_AGAIN
    assert not client._should_retry(response(425, {}))  # noqa: SLF001 (its rules are nowhere public)


def test_a_key_or_address_that_is_wrong_is_not_mended_by_a_header() -> None:
    for status in (401, 403, 404, *ELSEWHERE):
        error = ServerError(status, "No", should_retry=True)
        assert as_directed(error, classify(error, 1)) is Outcome.WRONG_MODEL


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": "30"},
        {"retry-after": "1.5"},
        {"retry-after": "0"},
        {"retry-after-ms": "250"},
        {"retry-after-ms": "250", "retry-after": "7"},
        {"retry-after-ms": "soon", "retry-after": "7"},
        {"retry-after-ms": "", "retry-after": "7"},
        {"retry-after": "soon"},
        {"retry-after": "-3"},
        {"retry-after": "nan"},
        {"retry-after": "inf"},
        {"retry-after": format_datetime(NOW, usegmt=True)},
        {"retry-after": "Thu, 05 Nov 2026 12:00:20 GMT"},
        {"retry-after": "Thu, 05 Nov 2026 11:59:20 GMT"},
    ],
)
def test_when(client: Any, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", NOW.timestamp)
    theirs = client._parse_retry_after_header(httpx2.Headers(headers))  # noqa: SLF001 (its rules are nowhere public)
    if theirs is not None and not 0 <= theirs < math.inf:
        theirs = None  # it waits its own time then
    ours = retry_after({"Retry-After" if name == "retry-after" else name: text for name, text in headers.items()}, NOW)
    assert ours == (None if theirs is None else pytest.approx(theirs))


def test_ours_waits_longer_than_two_minutes_where_openai_gives_up(client: Any) -> None:
    assert not client._should_retry(response(429, {"retry-after": "600"}))  # noqa: SLF001 (its rules are nowhere public)
    assert retry_after({"Retry-After": "600"}, NOW) == 600.0
