"""A pool without a fleet: answers come from a function, in an order that the test chooses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence

import msgspec

from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import AnyPrompt, ErrorKind, Prompt, Response, Sampling
from aurora_pool.pool import VLLMPool
from aurora_pool.progress import OnCallProgress

Answer = Callable[[str], Response | str]


class FakePool(VLLMPool):
    """Holds at most ``window`` prompts, and answers one of them, drawn at random, whenever it has to wait.

    ``tags`` are those of the agents, in order. A view shares ``sent`` and ``answered`` with its pool.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        size: int = 4,
        window: int = 64,
        context: int | None = None,
        max_tokens_aggregation: int | None = 99,
        seed: int = 0,
        tags: Sequence[dict[str, str]] = (),
    ) -> None:
        tags = tags or [{}] * size
        endpoints = [AgentEndpoint(f"agent{index}", tags=tag) for index, tag in enumerate(tags)]
        super().__init__(endpoints, max_tokens_aggregation=max_tokens_aggregation)
        self.answer = answer
        self.window = window
        self.context = context
        self.random = random.Random(seed)
        self.sent: list[Prompt] = []
        self.answered: list[str] = []
        self.closed: list[str] = []

    async def start(self) -> None:
        pass

    @property
    def max_context(self) -> int | None:
        return self.context

    def estimate_tokens(self, text: str) -> int:
        return len(text.split())

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [int.from_bytes(word.encode()[:4]) for word in text.split()]

    def respond(self, prompt: Prompt) -> Response:
        text = str(prompt.content)
        self.answered.append(text)
        answer = self.answer(text)
        if isinstance(answer, str):
            return Response(True, answer, prompt_tokens=self.estimate_tokens(text), completion_tokens=1)
        return answer

    async def iter_responses(
        self,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        weight: float = 1.0,
        priority: int = 0,
        total: int | None = None,
    ) -> AsyncGenerator[tuple[int, Response]]:
        source = prompts if isinstance(prompts, AsyncIterable) else _as_async(prompts)
        iterator = aiter(source)
        holding: dict[int, Prompt] = {}
        puller: asyncio.Task[AnyPrompt] | None = None
        pulled = 0
        exhausted = False
        try:
            while True:
                if puller is None and not exhausted and len(holding) < self.window:
                    puller = asyncio.ensure_future(_next(iterator))
                await asyncio.sleep(0)
                if puller is not None and puller.done():
                    try:
                        prompt = puller.result()
                    except StopAsyncIteration:
                        exhausted = True
                    else:
                        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
                        prompt = msgspec.structs.replace(
                            prompt, sampling=prompt.sampling or sampling, max_tokens=prompt.max_tokens or max_tokens
                        )
                        self.sent.append(prompt)
                        holding[pulled] = prompt
                        pulled += 1
                    puller = None
                elif holding:
                    index = self.random.choice(list(holding))
                    yield index, self.respond(holding.pop(index))
                elif exhausted:
                    return
        finally:
            self.closed.append("iter_responses")
            if puller is not None:
                puller.cancel()
                await asyncio.gather(puller, return_exceptions=True)

    async def send_all_batched(
        self,
        prompts: Iterable[AnyPrompt],
        max_tokens: int | None = None,
        *,
        sampling: Sampling | None = None,
        weight: float = 1.0,
        priority: int = 0,
        on_progress: OnCallProgress | None = None,
        progress: bool = False,
    ) -> list[Response]:
        found = {i: r async for i, r in self.iter_responses(prompts, max_tokens, sampling=sampling)}
        return [found[index] for index in range(len(found))]

    async def broadcast_prompt(self, prompt: AnyPrompt, max_tokens: int | None = None) -> list[Response]:
        return await self.send_all_batched([prompt] * self.size, max_tokens)


async def _as_async(prompts: Iterable[AnyPrompt]) -> AsyncIterator[AnyPrompt]:
    for prompt in prompts:
        yield prompt


async def _next(iterator: AsyncIterator[AnyPrompt]) -> AnyPrompt:
    return await anext(iterator)


def failed(error: str = "500: broken", kind: ErrorKind = "exhausted") -> Response:
    return Response(False, "", error, error_kind=kind)
