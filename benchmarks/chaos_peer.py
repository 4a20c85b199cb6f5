"""Runs one job by another library, in that library's environment: ``python -m benchmarks.chaos_peer flexllm < job``."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import sys
import time
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would look for one on the network


async def flexllm(job: dict[str, Any], answers: list[int]) -> None:
    """Flexllm's LLMClientPool, with fallback to other servers."""
    from flexllm import LLMClientPool  # type: ignore[import-not-found]  # noqa: PLC0415 (one environment has it)

    pool: Any = LLMClientPool(
        endpoints=[{"base_url": url + "/v1", "api_key": "none", "model": job["model"]} for url in job["urls"]],
        concurrency_limit=job["in_flight"] // len(job["urls"]),
        max_qps=1_000_000,
        fallback=True,
    )
    messages = [[{"role": "user", "content": text}] for text in job["prompts"]]
    found = await pool.chat_batch(messages, max_tokens=job["max_tokens"], show_progress=False)
    answers += [answer.usage["completion_tokens"] for answer in found if getattr(answer, "content", None)]
    await pool.aclose()


async def litellm(job: dict[str, Any], answers: list[int]) -> None:
    """LiteLLM's Router with its retries, a semaphore's worth of requests at a time."""
    import litellm as library  # type: ignore[import-not-found]  # noqa: PLC0415 (one environment has it)

    library.telemetry = False
    library.suppress_debug_info = True
    router: Any = library.Router(
        model_list=[
            {
                "model_name": "chat",
                "litellm_params": {"model": f"hosted_vllm/{job['model']}", "api_base": url + "/v1", "api_key": "none"},
            }
            for url in job["urls"]
        ],
        num_retries=2,
        routing_strategy="least-busy",
        default_max_parallel_requests=job["in_flight"],
    )
    limit = asyncio.Semaphore(job["in_flight"])

    async def ask(text: str) -> None:
        async with limit:
            messages = [{"role": "user", "content": text}]
            reply = await router.acompletion(model="chat", messages=messages, max_tokens=job["max_tokens"])
            answers.append(reply.usage.completion_tokens)

    await asyncio.gather(*map(ask, job["prompts"]), return_exceptions=True)


async def run(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a job within its limit; tell what came of it."""
    answers: list[int] = []
    began = time.perf_counter()
    ended = True
    try:
        async with asyncio.timeout(job["limit"]):
            await {"flexllm": flexllm, "litellm": litellm}[name](job, answers)
    except TimeoutError:
        ended = False
    return {
        "version": f"{name} {importlib.metadata.version(name)}",
        "seconds": time.perf_counter() - began,
        "ended": ended,
        "answered": len(answers),
        "tokens": sum(answers),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], json.load(sys.stdin)))), flush=True)
    os._exit(0)  # a library's threads may be waiting for a server that hangs
