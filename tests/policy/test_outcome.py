"""Every row of the outcome table, as replies and failures show it."""

from __future__ import annotations

import pytest

from aurora_pool.errors import (
    BadReply,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    PoolError,
    ServerError,
    TimedOut,
    WrongModel,
)
from aurora_pool.policy.outcome import FINISHED, Outcome, classify

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."


@pytest.mark.parametrize(
    ("error", "prompts", "outcome"),
    [
        (ServerError(400, "The decoder prompt cannot be empty"), 1, Outcome.PROMPT_REJECTED),
        (ServerError(400, "The decoder prompt cannot be empty"), 20, Outcome.BATCH_REJECTED),
        (ServerError(413, "too large"), 20, Outcome.BATCH_REJECTED),
        (ServerError(422, "unprocessable"), 1, Outcome.PROMPT_REJECTED),
        (ServerError(503, "The engine is currently busy"), 5, Outcome.OVERLOADED),
        (ServerError(429, "Too many requests"), 1, Outcome.OVERLOADED),
        (ServerError(500, "cannot schedule new futures after shutdown"), 5, Outcome.DRAINING),
        (ConnectFailed("connection refused"), 5, Outcome.UNREACHABLE),
        (ConnectionLost("reset", received=True), 5, Outcome.DEAD),
        (ConnectionLost("closed", received=False), 5, Outcome.DEAD),
        (TimedOut("no byte"), 5, Outcome.DEAD),
        (ServerError(500, ENGINE_DEAD), 5, Outcome.DEAD),
        (ServerError(500, ""), 5, Outcome.DEAD),
        (ServerError(500, "Internal server error"), 5, Outcome.BROKEN),
        (ServerError(502, ""), 5, Outcome.BROKEN),
        (ServerError(408, "timeout"), 5, Outcome.BROKEN),
        (BadReply("no JSON"), 5, Outcome.BROKEN),
        (ServerError(404, "The model `nope` does not exist."), 5, Outcome.WRONG_MODEL),
        (ServerError(401, "Unauthorized"), 5, Outcome.WRONG_MODEL),
        (ServerError(403, "Scale-out endpoints are disabled."), 5, Outcome.WRONG_MODEL),
        *((ServerError(status, ""), 1, Outcome.WRONG_MODEL) for status in (301, 302, 307, 308)),
        *((ServerError(status, ""), 1, Outcome.WRONG_MODEL) for status in (402, 407, 410, 421, 426, 451)),
        (ServerError(400, "The plain HTTP request was sent to HTTPS port"), 9, Outcome.WRONG_MODEL),
        *((ServerError(status, "x"), 1, Outcome.BROKEN) for status in (204, 206, 409, 418, 425, 499, 520, 599)),
        (WrongModel("it answers as 'x'"), 5, Outcome.WRONG_MODEL),
    ],
)
def test_a_failure_means(error: PoolError, prompts: int, outcome: Outcome) -> None:
    assert classify(error, prompts) is outcome


def test_what_no_attempt_can_end_with_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="expected an error of an attempt"):
        classify(ConfigError("no model"), 1)


def test_abort_is_no_answer() -> None:
    assert "abort" not in FINISHED
    assert {"stop", "length", "repetition", "tool_calls", "content_filter"} == FINISHED
