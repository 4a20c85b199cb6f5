"""LiteLLM's Router over one deployment per server."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would look for one on the network

import litellm  # type: ignore[import-not-found]

from benchmarks.peers.openai_sdk import result
from benchmarks.peers.shared import CASES, IN_FLIGHT, MAX_TOKENS, MODEL, Case, Client, in_order, rounds


@asynccontextmanager
async def open_client(urls: list[str]) -> AsyncIterator[Client]:
    """Open the client."""
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    deployments = [
        {
            "model_name": name,
            "litellm_params": {"model": f"{provider}/{MODEL}", "api_base": url + "/v1", "api_key": "none"},
        }
        for url in urls
        for name, provider in (("chat", "hosted_vllm"), ("text", "text-completion-openai"))
    ]
    router: Any = litellm.Router(model_list=deployments, num_retries=2, default_max_parallel_requests=IN_FLIGHT)

    async def chat(_: int, text: str) -> Any:
        return await router.acompletion(
            model="chat", messages=[{"role": "user", "content": text}], max_tokens=MAX_TOKENS
        )

    async def whole(prompts: list[str]) -> list[Any]:
        reply = await router.atext_completion(model="text", prompt=prompts, max_tokens=MAX_TOKENS)
        return list(reply.choices)

    async def run(case: Case, prompts: list[str]) -> list[Any]:
        if case.chat:
            return await in_order(chat, prompts, asyncio.gather)
        answers: list[Any] = []
        for some in rounds(case, prompts):
            # The router chooses the server of each list; which list goes where makes no difference here.
            lists = [some[start :: len(urls)] for start in range(len(urls))]
            replies = await asyncio.gather(*map(whole, lists))
            answers += [answer for row in zip(*replies, strict=True) for answer in row]
        return answers

    skips = tuple(case.name for case in CASES if case.stream)
    yield Client(run, result, f"litellm {importlib.metadata.version('litellm')}", skips)
