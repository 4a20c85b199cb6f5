"""``aurora-pool run --dry-run``: what a job would do, and about what it would take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from aurora_pool.cli.confirm import question_of
from aurora_pool.cli.display import duration
from aurora_pool.cli.summary import describe_resumed
from aurora_pool.errors import counted
from aurora_pool.jobs.prompt_maker import PromptMaker
from aurora_pool.messages import Prompt

if TYPE_CHECKING:
    from aurora_pool.jobs.job import Job
    from aurora_pool.jobs.run import JobPool

ASKED = 32
"""Requests that are asked to tell what all will take."""


async def dry_run(job: Job, pool: JobPool) -> list[str]:
    """Say in lines of text what the job would do. A few of its requests are asked, and nothing is written."""
    survey = job.survey
    lines = [f"input: {survey.name}, read as {survey.kind}: {counted(survey.requests, 'request')}"]
    if survey.skipped:
        lines.append(f"bad lines: {survey.skipped}; the first: {survey.bad_records[0]}")
    lines.append(f"model: {pool.model}, on {counted(pool.size, 'agent')}")
    found = await job.inspect(pool)
    lines += describe_resumed(found, str(job.output), repaired=False) or ["earlier runs: none"]
    remaining = survey.remaining
    lines.append(f"to run: {counted(remaining, 'request')}")
    question = question_of(found)
    if remaining and question is not None and job.options.before_resume is not None:
        lines.append(f"the run asks first, or needs --yes: {question}")
    if remaining:
        lines += await _estimate(job, pool, remaining)
    return lines


async def _estimate(job: Job, pool: JobPool, remaining: int) -> list[str]:
    count = min(remaining, ASKED)
    prompts = list(_some_of(job, remaining, count))
    begun = time.perf_counter()
    responses = await pool.send_all(prompts)
    seconds = time.perf_counter() - begun
    good = [response for response in responses if response.success]
    asked = counted(len(responses), "request")
    lines = [f"asked: {asked} in {duration(seconds)}, {len(responses) - len(good)} failed"]
    if len(good) < len(responses):
        lines.append(f"the first failure: {next(r.error for r in responses if not r.success)}")
    if good:
        read = sum(response.prompt_tokens or 0 for response in good) * remaining // len(good)
        generated = sum(response.completion_tokens or 0 for response in good) * remaining // len(good)
        slowest = seconds * remaining / len(responses)
        lines.append(f"tokens: about {read} to read and {generated} to generate")
        lines.append(f"time: less than {duration(slowest)}, at the rate of these few, which leave agents idle")
    return lines


def _some_of(job: Job, remaining: int, count: int) -> Iterator[Prompt]:
    maker = PromptMaker()
    pending = job.survey.pending()
    taken = 0
    for number in range(count):
        place = number * remaining // count
        for request in islice(pending, place - taken, place - taken + 1):
            yield maker.prompt(request)
        taken = place + 1
