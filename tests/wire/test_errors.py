"""Error bodies in the shapes that servers use."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.wire.errors import error_of, parse_error
from tests.wire.bodies import error

TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens"
)


@pytest.mark.parametrize(
    ("status", "body", "message", "param"),
    [
        (400, error(TOO_LONG, 400, param="input_tokens"), TOO_LONG, "input_tokens"),
        (
            400,
            msgspec.json.encode(
                {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "param": None, "code": 400}
            ),
            TOO_LONG,
            None,
        ),
        (401, b'{"error":"Unauthorized"}', "Unauthorized", None),
        (404, b'{"detail":"Not Found"}', "Not Found", None),
        (422, b'{"detail":[{"loc":["body"],"msg":"x"}]}', '[{"loc":["body"],"msg":"x"}]', None),
        (500, b"", "", None),
        (502, b"<html>Bad Gateway</html>\n", "<html>Bad Gateway</html>", None),
        (500, b"\xff\xfe", "\ufffd\ufffd", None),
        (500, b"[1]", "[1]", None),
        (500, b"null", "None", None),
    ],
)
def test_every_shape(status: int, body: bytes, message: str, param: str | None) -> None:
    found = parse_error(status, body)
    assert (found.status, found.message, found.param) == (status, message, param)


def test_the_code_inside_wins_over_the_status() -> None:
    assert parse_error(200, error("busy", 503)).status == 503
    assert error_of({"message": "no code"}, 418).status == 418
    assert error_of({"message": "odd code", "code": "unknown"}, 500).status == 500


@given(st.integers(400, 599), st.binary(max_size=80))
def test_any_body_will_do(status: int, body: bytes) -> None:
    assert 400 <= parse_error(status, body).status <= 599
