"""What servers up to 0.31 say about a prompt whose max_tokens leaves the context too small."""

import pytest

from aurora_pool.errors import ServerError
from aurora_pool.wire.errors import context_left

LIMIT = "This model's maximum context length is 2048 tokens. "


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (LIMIT + "However, you requested 2600 tokens (600 in the messages, 2000 in the completion).", 1448),
        (LIMIT + "However, your request has 2000 input tokens.", 48),
        (
            LIMIT + "However, you requested 300 output tokens and your prompt contains 1900 input tokens, for a total "
            "of 2200 tokens.",
            148,
        ),
        (LIMIT + "However, your prompt contains at least 2049 input tokens.", None),
        (LIMIT + "However, your request has 2048 input tokens.", None),
        ("The decoder prompt cannot be empty", None),
    ],
)
def test_the_room_that_a_refusal_tells(message: str, left: int | None) -> None:
    assert context_left(ServerError(400, message)) == left


def test_other_errors_tell_none() -> None:
    assert context_left(ServerError(500, LIMIT + "However, your request has 2000 input tokens.")) is None
