"""What the result of an attempt means by itself.

The table in ``docs/dispatch.md`` says what follows from each outcome, for the prompts and for the agent;
:mod:`aurora_pool.policy.faults` carries it out, and knows more than the result alone says:

- a lost connection is ``DEAD`` here, and ``BROKEN`` if the agent's load check shows that it works on;
- a rejection by an agent that may reject whatever it gets is ``BROKEN``;
- a stall is ``DEAD`` for the agent, whose prompts go again as after ``BROKEN``: nobody says that they are at fault.
"""

from __future__ import annotations

import enum

from aurora_pool.errors import BadReply, ConnectFailed, ConnectionLost, PoolError, ServerError, TimedOut, WrongModel

FILTERED = "content_filter"
"""The finish reason of an answer that the server withholds: a result of its prompt, though no success."""
FINISHED = frozenset({"stop", "length", "repetition", "tool_calls", FILTERED})
"""The finish reasons that are a prompt's result. ``abort`` comes with HTTP 200 and partial text, and is none."""

_MAY_BE_THE_PROMPTS = frozenset({400, 413, 422})
"""The only statuses that say something about a prompt; any other is about the agent, or a proxy in front of it."""
_ELSEWHERE = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 411, 414, 415, 421, 426, 431, 451, 501, 505})
"""Statuses that a retry would not mend: the address, the key, the model or the proxy is wrong."""
_PINNED_TEXT = "pinned to"
"""What transformers says with a 400 where vLLM says 404: it serves another model."""
_TLS_TEXT = "plain HTTP request was sent to HTTPS port"
_DRAINING_TEXT = "after shutdown"
_ENGINE_DEAD_TEXTS = ("EngineCore encountered", "EngineDead", "engine is dead", "Engine loop is not running")


class Outcome(enum.Enum):
    """What one attempt came to."""

    ANSWERED = "answered"
    PROMPT_REJECTED = "prompt_rejected"
    BATCH_REJECTED = "batch_rejected"
    OVERLOADED = "overloaded"
    UNREACHABLE = "unreachable"
    DRAINING = "draining"
    DEAD = "dead"
    BROKEN = "broken"
    WRONG_MODEL = "wrong_model"
    CANCELLED = "cancelled"


_SENT_AGAIN = frozenset({Outcome.OVERLOADED, Outcome.UNREACHABLE, Outcome.DRAINING, Outcome.DEAD, Outcome.BROKEN})


def classify(error: PoolError, prompts: int) -> Outcome:
    """Tell what a failed request that carried this many unfinished prompts means.

    vLLM says some things only in the message: a draining server answers 500 with ``cannot schedule new futures after
    shutdown``, and a dead engine 500 with ``EngineCore encountered an issue`` (an empty body before 0.18).

    >>> classify(ServerError(400, "The decoder prompt cannot be empty"), prompts=20)
    <Outcome.BATCH_REJECTED: 'batch_rejected'>
    >>> classify(ConnectFailed("connection refused"), prompts=20)
    <Outcome.UNREACHABLE: 'unreachable'>
    """
    match error:
        case ServerError():
            return _classify_status(error, prompts)
        case ConnectFailed():
            return Outcome.UNREACHABLE
        case ConnectionLost() | TimedOut():
            return Outcome.DEAD
        case WrongModel():
            return Outcome.WRONG_MODEL
        case BadReply():
            return Outcome.BROKEN
        case _:
            raise TypeError(f"expected an error of an attempt, got {error!r}")


def as_directed(error: PoolError, outcome: Outcome) -> Outcome:
    """Adjust the outcome of a hosted agent that says whether to retry (``x-should-retry``), as the openai client does.

    >>> as_directed(ServerError(500, "", should_retry=False), Outcome.BROKEN)
    <Outcome.PROMPT_REJECTED: 'prompt_rejected'>
    """
    directive = error.should_retry if isinstance(error, ServerError) else None
    if directive is False and outcome in _SENT_AGAIN:
        return Outcome.PROMPT_REJECTED
    if directive is True and outcome is Outcome.PROMPT_REJECTED:
        return Outcome.BROKEN
    return outcome


def _classify_status(error: ServerError, prompts: int) -> Outcome:
    status = error.status
    if status in (429, 503):
        return Outcome.OVERLOADED
    if status in _MAY_BE_THE_PROMPTS and _TLS_TEXT not in error.message and _PINNED_TEXT not in error.message:
        return Outcome.BATCH_REJECTED if prompts > 1 else Outcome.PROMPT_REJECTED
    if 300 <= status < 400 or status in _ELSEWHERE or status in _MAY_BE_THE_PROMPTS:
        return Outcome.WRONG_MODEL
    if _DRAINING_TEXT in error.message:
        return Outcome.DRAINING
    if status == 500 and (not error.message or any(text in error.message for text in _ENGINE_DEAD_TEXTS)):
        return Outcome.DEAD
    return Outcome.BROKEN  # 502 and 504 of a proxy, other 500s, 408, ...
