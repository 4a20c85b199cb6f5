"""What an attempt's result means: for the prompts it carried, and for the agent that gave it.

===================  =======================================  ===================================  =====================
outcome              seen as                                  the prompts                          the agent
===================  =======================================  ===================================  =====================
``ANSWERED``         finish_reason stop, length, repetition   done                                 healthy
``PROMPT_REJECTED``  400 for a prompt that went alone         fails at once, never sent elsewhere  healthy
``BATCH_REJECTED``   400 for a list                           halved until the culprit is alone    healthy
``OVERLOADED``       503, 429                                 move; the next list is smaller       window shrinks, cools
``DRAINING``         connection refused; 500 while draining   move, no attempt used                out until it answers
``DEAD``             connection lost, engine dead, stall      move; finished ones are kept         out until it answers
``BROKEN``           other 5xx, ``abort``, garbage            move after a pause, attempt used     breaker counts
``WRONG_MODEL``      404, 401, 403                            move to agents that serve it         out for long
``CANCELLED``        the caller gave up, or the hedge lost    none                                 neutral
===================  =======================================  ===================================  =====================
"""

from __future__ import annotations

import enum

from aurora_pool.errors import BadReply, ConnectFailed, ConnectionLost, PoolError, ServerError, TimedOut

FINISHED = frozenset({"stop", "length", "repetition"})
"""The finish reasons that mean an answer. ``abort`` comes with HTTP 200 and partial text, and is none."""

_DRAINING_TEXT = "after shutdown"
_ENGINE_DEAD_TEXTS = ("EngineCore encountered", "EngineDead", "engine is dead", "Engine loop is not running")


class Outcome(enum.Enum):
    """What one attempt came to; the module's table says what follows from each."""

    ANSWERED = "answered"
    PROMPT_REJECTED = "prompt_rejected"
    BATCH_REJECTED = "batch_rejected"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    DEAD = "dead"
    BROKEN = "broken"
    WRONG_MODEL = "wrong_model"
    CANCELLED = "cancelled"


def classify(error: PoolError, prompts: int) -> Outcome:
    """Tell what a failed request that carried this many unfinished prompts means.

    vLLM says some things only in words: a draining server answers 500 with ``cannot schedule new futures after
    shutdown``, and a dead engine 500 with ``EngineCore encountered an issue`` (an empty body before 0.18).

    >>> classify(ServerError(400, "The decoder prompt cannot be empty"), prompts=20)
    <Outcome.BATCH_REJECTED: 'batch_rejected'>
    >>> classify(ConnectFailed("connection refused"), prompts=20)
    <Outcome.DRAINING: 'draining'>
    """
    match error:
        case ServerError():
            return _classify_status(error, prompts)
        case ConnectFailed():
            return Outcome.DRAINING
        case ConnectionLost() | TimedOut():
            return Outcome.DEAD
        case BadReply():
            return Outcome.BROKEN
        case _:
            raise TypeError(f"expected an error of an attempt, got {error!r}")


def _classify_status(error: ServerError, prompts: int) -> Outcome:
    if error.status in (429, 503):
        return Outcome.OVERLOADED
    if error.status in (401, 403, 404, 405, 501):
        return Outcome.WRONG_MODEL
    if error.status >= 500 or error.status == 408:
        if _DRAINING_TEXT in error.message:
            return Outcome.DRAINING
        if error.status == 500 and (not error.message or any(text in error.message for text in _ENGINE_DEAD_TEXTS)):
            return Outcome.DEAD
        return Outcome.BROKEN
    return Outcome.BATCH_REJECTED if prompts > 1 else Outcome.PROMPT_REJECTED
