"""The openai SDK, as a script uses it: a client per server, a semaphore's worth of requests at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import openai

from benchmarks.peers.shared import (
    MAX_TOKENS,
    MODEL,
    Case,
    Client,
    Result,
    gather_shares,
    in_order,
    round_robin,
    rounds,
)

_STREAM_OPTIONS: Any = {"include_usage": True, "continuous_usage_stats": True}


@asynccontextmanager
async def open_client(urls: list[str], *, http_client: type[Any] | None = None) -> AsyncIterator[Client]:
    """Open the client."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                openai.AsyncOpenAI(
                    base_url=url + "/v1", api_key="none", http_client=http_client() if http_client else None
                )
            )
            for url in urls
        ]

        async def chat(agent: int, text: str) -> Any:
            return await clients[agent].chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=MAX_TOKENS
            )

        async def whole(agent: int, prompts: list[str]) -> list[Any]:
            reply = await clients[agent].completions.create(model=MODEL, prompt=prompts, max_tokens=MAX_TOKENS)
            return list(reply.choices)

        async def streamed(agent: int, prompts: list[str]) -> list[Any]:
            events = await clients[agent].completions.create(
                model=MODEL,
                prompt=prompts,
                max_tokens=MAX_TOKENS,
                stream=True,
                stream_options=_STREAM_OPTIONS,
                extra_body={"stream_interval": 1_000_000},
            )
            texts = [""] * len(prompts)
            answers: list[Any] = [None] * len(prompts)
            async for event in events:
                for choice in event.choices:
                    texts[choice.index] += choice.text
                    if choice.finish_reason is not None:
                        answers[choice.index] = texts[choice.index], choice.finish_reason, event.usage
            return answers

        async def run(case: Case, prompts: list[str]) -> list[Any]:
            if case.chat:
                return await in_order(chat, prompts, asyncio.gather)
            send = streamed if case.stream else whole
            answers: list[Any] = []
            for shares in map(round_robin, rounds(case, prompts)):
                answers += gather_shares(await asyncio.gather(*map(send, range(len(shares)), shares)))
            return answers

        yield Client(run, result, f"openai {openai.__version__}")


def result(reply: Any) -> Result:
    """Read a chat completion, a choice of a list, or what was gathered from a stream."""
    if isinstance(reply, tuple):
        text, finish_reason, usage = reply
        return Result(text, finish_reason, usage.prompt_tokens, usage.completion_tokens)
    if hasattr(reply, "choices"):
        (choice,) = reply.choices
        return Result(
            choice.message.content, choice.finish_reason, reply.usage.prompt_tokens, reply.usage.completion_tokens
        )
    return Result(reply.text, reply.finish_reason, None, None)
