"""flexllm's LLMClientPool over all servers; it knows chat requests only."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flexllm import LLMClientPool  # type: ignore[import-not-found]

from benchmarks.peers.shared import CASES, IN_FLIGHT, MAX_TOKENS, MODEL, Case, Client, Result


@asynccontextmanager
async def open_client(urls: list[str]) -> AsyncIterator[Client]:
    """Open the client."""
    endpoints = [{"base_url": url + "/v1", "api_key": "none", "model": MODEL} for url in urls]
    pool: Any = LLMClientPool(
        endpoints=endpoints, concurrency_limit=IN_FLIGHT // len(urls), max_qps=1_000_000, fallback=True
    )

    async def run(_: Case, prompts: list[str]) -> list[Any]:
        messages = [[{"role": "user", "content": text}] for text in prompts]
        batch = await pool.chat_batch(messages, max_tokens=MAX_TOKENS, show_progress=False)
        return list(batch)

    skips = tuple(case.name for case in CASES if not case.chat)
    yield Client(run, _result, f"flexllm {importlib.metadata.version('flexllm')}", skips)
    await pool.aclose()


def _result(answer: Any) -> Result:
    usage = answer.usage
    return Result(answer.content, answer.finish_reason, usage["prompt_tokens"], usage["completion_tokens"])
