"""aurora-pool, by its public API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aurora_pool
from aurora_pool import AgentEndpoint, PromptOptions, Response, VLLMPool
from benchmarks.peers.shared import MAX_TOKENS, MODEL, Case, Client, Result, rounds


@asynccontextmanager
async def open_client(urls: list[str]) -> AsyncIterator[Client]:
    """Open two pools, with and without streaming; each round of prompts is a call."""
    endpoints = [AgentEndpoint("127.0.0.1", int(url.rpartition(":")[2])) for url in urls]

    def new_pool(*, stream: bool) -> VLLMPool:
        return VLLMPool(endpoints, model=MODEL, prompting=PromptOptions(prompt_format="raw", stream=stream))

    async with AsyncExitStack() as stack:
        whole = await stack.enter_async_context(new_pool(stream=False))
        streamed = await stack.enter_async_context(new_pool(stream=True))

        async def run(case: Case, prompts: list[str]) -> list[Response]:
            answers: list[Response] = []
            if case.lists > 1:
                for some in rounds(case, prompts):
                    async with new_pool(stream=case.stream) as pool:
                        answers += await pool.send_all_batched(some, MAX_TOKENS)
                return answers
            pool = streamed if case.stream else whole
            send = pool.send_all if case.chat else pool.send_all_batched
            for some in rounds(case, prompts):
                answers += await send(some, MAX_TOKENS)
            return answers

        yield Client(run, _result, f"aurora-pool {aurora_pool.__version__}", long_calls=True)


def _result(response: Response) -> Result:
    return Result(response.text, response.finish_reason, response.prompt_tokens, response.completion_tokens)
