"""async-batch-llm over one server, as it has no list of them; it knows chat requests only."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from async_batch_llm import OpenAICompatibleModel, OpenAIStrategy, process_prompts  # type: ignore[import-not-found]

from benchmarks.peers.shared import CASES, IN_FLIGHT, MAX_TOKENS, MODEL, Case, Client, Result


@asynccontextmanager
async def open_client(urls: list[str]) -> AsyncIterator[Client]:
    """Open the client."""

    def strategy() -> Any:
        model = OpenAICompatibleModel.from_api_key(
            MODEL, api_key="none", base_url=urls[0] + "/v1", max_connections=IN_FLIGHT
        )
        return OpenAIStrategy(model, generation_config={"max_tokens": MAX_TOKENS})

    async def run(_: Case, prompts: list[str]) -> list[Any]:
        batch = await process_prompts(strategy(), prompts, concurrency=IN_FLIGHT, preserve_order=True)
        return list(batch.results)

    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("async-batch-llm", "openai"))
    yield Client(run, _result, versions, tuple(case.name for case in CASES if not case.chat))


def _result(answer: Any) -> Result:
    usage = answer.token_usage
    reason = answer.metadata.get("finish_reason")
    return Result(answer.output, reason, usage.get("input_tokens"), usage.get("output_tokens"))
