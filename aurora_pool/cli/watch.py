"""How a batch on a server is watched until it has ended, and what is told of it meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aurora_pool.cli.console import progress_bar, say
from aurora_pool.terminal import one_line
from aurora_pool.wire.batch_states import ACTIVE
from aurora_pool.wire.errors import shortened

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

POLL_EVERY = 1.0
ANSWERING = 30.0
"""Seconds that a server has to say how a batch is doing, each time."""
PATIENCE = 600.0
"""Seconds without an answer of the server until a batch is no longer watched: a restart takes less."""
PASSING = {408, 429}
"""Statuses below 500 that say nothing of the batch: a proxy may give them when it is busy."""
MOST = 10**15
"""The number of requests from which on a server's word is not taken: a bar of progress is drawn in floats."""


def watched(client: openai.OpenAI, batch: Batch) -> Batch:
    """Show a batch's progress until it has ended, and give what it is then.

    Raises the client's own error once the server has not answered for :data:`PATIENCE`.
    """
    import openai
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    lost: float | None = None
    waits = ""
    strict = {"_strict_response_validation": True}  # which with_options doesn't pass on
    once = client.with_options(max_retries=0, timeout=ANSWERING, _extra_kwargs=strict)
    with progress_bar(*columns) as progress:
        shown = progress.add_task(one_line(batch.status), total=None)
        while batch.status in ACTIVE:
            time.sleep(POLL_EVERY)
            try:
                batch = once.batches.retrieve(batch.id)
            except (openai.APIConnectionError, openai.APIStatusError) as error:
                how = "can't be reached now"
                if isinstance(error, openai.APIStatusError):
                    if error.status_code < 500 and error.status_code not in PASSING:
                        raise
                    how = f"can't answer now ({complaint_of(error)})"
                if lost is None:
                    lost = time.monotonic()
                    say(one_line(f"{batch.id}: the server {how}; it is asked again"))
                elif time.monotonic() - lost >= PATIENCE:
                    raise
                continue
            lost = None
            if (told := waits_for(batch)) and told != waits:
                say(one_line(f"{batch.id}: {told}"))
            waits = told
            counts = batch.request_counts
            if counts is not None:
                progress.update(
                    shown,
                    description=one_line(batch.status),
                    completed=min(counts.completed + counts.failed, MOST),
                    total=min(counts.total, MOST) or None,
                )
    tell_errors(batch)
    say(one_line(f"{batch.id}: {batch.status}"))
    return batch


def waits_for(batch: Batch) -> str:
    """Say why a batch waits, if its server does."""
    own = (batch.model_extra or {}).get("aurora_pool")
    told = own.get("waiting") if isinstance(own, dict) else None
    return f"waits: {shortened(told)}" if told and isinstance(told, str) else ""


def tell_errors(batch: Batch) -> None:
    """Say why the server has refused a batch, if it has."""
    for problem in (batch.errors.data or [] if batch.errors else [])[:5]:
        message = shortened(problem.message or "")
        say(one_line(f"line {problem.line}: {message}" if problem.line else message))


def complaint_of(error: openai.APIStatusError) -> str:
    """Give the message of a server's error, cut if it is long."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return shortened(str(message or error))
