"""The pool over an engine in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from aurora_pool.agent_pool import AgentPool
from aurora_pool.arguments import check_whole
from aurora_pool.errors import ConfigError, PoolClosedError, PoolError
from aurora_pool.hostfile import AgentEndpoint, AnyEndpoint
from aurora_pool.messages import AnyPrompt, AnyPrompts, Content, Response, Sampling
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.pool_calls import CallInProgress
from aurora_pool.pool_options import CallOptions, check_prompts
from aurora_pool.prompts.content import as_prompt, check_sampling
from aurora_pool.runtime.discovery import Discovery
from aurora_pool.runtime.fleet_options import FleetOptions
from aurora_pool.statistics import AgentStatistics, PoolStatistics

if TYPE_CHECKING:
    from aurora_pool.blocking import BlockingPool
    from aurora_pool.runtime.forward import Forwarder

__all__ = ["Engine", "EngineDied", "EnginePool", "Question", "QuestionRefused"]

_RATE_OVER = 10.0
"""Seconds over which the speed is measured."""


class QuestionRefused(PoolError):
    """The engine refuses one prompt."""


class EngineDied(PoolError):
    """The engine can't answer anything any more."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt as an engine gets it; with ``template``, text goes through the model's chat template."""

    content: Content
    sampling: Sampling
    max_tokens: int | None
    template: bool


class Engine(Protocol):
    """What computes: it serves ``model`` with its context length in tokens, ``capacity`` prompts at a time.

    All three are known once it has started.
    """

    model: str
    capacity: int
    context: int

    async def start(self) -> None:
        """Load the model. Raises :class:`ConfigError` if it can't be."""

    async def answer(self, question: Question) -> Response:
        """Answer one prompt.

        Raises :class:`QuestionRefused` for one that it refuses and :class:`EngineDied` when nothing works any more.
        Being cancelled stops the computation.
        """
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Give the token ids of a text."""
        ...

    async def close(self) -> None:
        """Free what it holds."""


class EnginePool(AgentPool):
    """One engine in this process as a pool.

    >>> async with EnginePool(VllmEngine("Qwen/Qwen2.5-7B-Instruct"), max_tokens=16) as pool:  # doctest: +SKIP
    ...     responses = await pool.send_all_batched(["Name a colour.", "Name a tree."])

    Results come in the order in which they end, and a prompt that is refused fails alone. ``max_tokens`` and
    ``sampling`` are for prompts that have none of their own; without ``max_tokens``, what the context leaves.
    ``max_tokens_aggregation`` is the same for reduce steps. Calls have no weight and no priority here.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_tokens: int | None = None,
        max_tokens_aggregation: int | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        check_whole(1, max_tokens=max_tokens, max_tokens_aggregation=max_tokens_aggregation)
        if sampling is not None:
            check_sampling(sampling)
        self._place = AgentEndpoint("in-process", 1)
        # Of what all pools share it uses the views; nothing is ever sent.
        super().__init__([self._place], Discovery(engine.model, None), FleetOptions())
        self._engine = engine
        self._max_tokens = max_tokens
        self._max_tokens_aggregation = max_tokens_aggregation
        self._sampling = sampling or Sampling()
        self._closed = False
        self._in_flight = 0
        self._done = self._failed = self._tokens = 0
        self._recent: list[tuple[float, int]] = []

    @property
    def supports_batch(self) -> bool:
        """Whether prompts go to the engine as they come: it makes batches itself."""
        return True

    @property
    def max_tokens(self) -> int | None:
        """How many tokens to generate at most for a prompt; None takes what the context leaves."""
        return self._max_tokens

    @property
    def max_tokens_aggregation(self) -> int | None:
        """How many tokens to generate at most in reduce steps; None takes what the context leaves."""
        return self._max_tokens_aggregation

    @property
    def sampling(self) -> Sampling:
        """How prompts are answered that have no sampling of their own and whose call has none."""
        return self._sampling

    @property
    def model(self) -> str | None:
        """The model's name."""
        return self._engine.model

    @property
    def max_context(self) -> int | None:
        """The context length in tokens; None before the start."""
        return self._engine.context or None

    def estimate_tokens(self, text: str) -> int:
        """Count the tokens of a text; exactly, as the tokenizer is here."""
        return len(self._engine.encode(text, add_special_tokens=False))

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Give the token ids of a text, never with the chat template around it."""
        await self.start()
        return self._engine.encode(text, add_special_tokens=add_special_tokens)

    async def broadcast_prompt(self, prompt: AnyPrompt, max_tokens: int | None = None) -> list[Response]:
        """Ask every agent the same: there is one."""
        return await self.send_all([prompt], max_tokens)

    def update_endpoints(self, endpoints: Iterable[AnyEndpoint]) -> None:
        """Raise :class:`ConfigError`: the engine is the only agent."""
        raise ConfigError("update_endpoints: this pool has an engine in this process, and no endpoints")

    def forwarder(self, *, otherwise: Forwarder | None = None) -> Forwarder:
        """Raise :class:`ConfigError`: an engine in this process takes no HTTP requests."""
        raise ConfigError("forwarder: this pool has an engine in this process, which takes no HTTP requests")

    def sync(self) -> BlockingPool[Self]:
        """Make a pool without ``await`` of this one, for plain scripts, notebooks and threads.

        >>> with EnginePool(engine, max_tokens=64).sync() as pool:  # doctest: +SKIP
        ...     responses = pool.send_all_batched(["Name a colour."])
        """
        from aurora_pool.blocking import BlockingPool  # noqa: PLC0415 (few need it, and it imports anyio)

        return BlockingPool(self)

    async def start(self) -> None:
        """Load the model; the first request does it otherwise. Raises :class:`ConfigError` if it can't be."""
        if self._whole is not None:
            await self._whole.start()
            return
        if self._closed:
            raise PoolClosedError("this pool is closed")
        await self._starting.run(self._engine.start)

    async def close(self) -> None:
        """End the engine. Closing a view does nothing."""
        if self._whole is None and not self._closed:
            self._closed = True
            await self._engine.close()

    def statistics(self) -> PoolStatistics:
        """Take a frozen snapshot, in which the engine is the only agent."""
        now = time.monotonic()
        self._recent = [entry for entry in self._recent if now - entry[0] <= _RATE_OVER]
        agent = AgentStatistics(
            endpoint=self._place,
            state="in service",
            in_flight=self._in_flight,
            window=self._engine.capacity,
            prompts_done=self._done,
            tokens_done=self._tokens,
            tokens_per_second=sum(tokens for _, tokens in self._recent) / _RATE_OVER,
            last_answer_age=now - self._recent[-1][0] if self._recent else None,
        )
        return PoolStatistics(
            agents=(agent,),
            prompts_done=self._done,
            prompts_failed=self._failed,
            tokens_done=self._tokens,
            queued=0,
            in_flight=self._in_flight,
            requests=self._done + self._failed + self._in_flight,
            hedged=0,
            moved=0,
            quarantined=0,
            wasted_tokens=0,
        )

    async def _call(
        self, queue: PromptQueue, prompts: AnyPrompts, options: CallOptions, total: int | None
    ) -> CallInProgress:
        if options.weight != 1.0 or options.priority:
            raise ConfigError(
                "weight, priority: an engine in this process answers prompts in the order of their coming"
            )
        check_prompts(prompts)
        await self.start()
        return _Call(prompts, lambda index, prompt: self._answer(index, prompt, options), 2 * self._engine.capacity)

    async def _answer(self, index: int, prompt: AnyPrompt, options: CallOptions) -> tuple[int, Response]:
        try:
            given = as_prompt(prompt)
        except ConfigError as error:  # from an input that could not be checked before
            self._failed += 1
            return index, Response(False, "", str(error), error_kind="rejected")
        question = Question(
            given.content,
            given.sampling or options.sampling or self._sampling,
            given.max_tokens or options.max_tokens or self._max_tokens,
            template=given.format != "raw",
        )
        self._in_flight += 1
        try:
            response = await self._engine.answer(question)
        except QuestionRefused as error:
            response = Response(False, "", str(error), error_kind="rejected", attempts=1)
        except EngineDied as error:
            # It says nothing about this prompt: another engine may answer it.
            return index, Response(False, "", str(error), error_kind="no_agents", attempts=1)
        finally:
            self._in_flight -= 1
        if response.success:
            self._done += 1
            self._tokens += response.completion_tokens or 0
            self._recent.append((time.monotonic(), response.completion_tokens or 0))
        else:
            self._failed += 1
        return index, response


class _Call:
    """One caller's prompts on their way through the engine, ``capacity`` of them at a time.

    That is twice what is computed at a time: what waits in the engine begins the moment a slot is free.
    """

    def __init__(
        self,
        prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt],
        answer: Callable[[int, AnyPrompt], Coroutine[Any, Any, tuple[int, Response]]],
        capacity: int,
    ) -> None:
        self._prompts = prompts
        self._answer = answer
        self._capacity = asyncio.Semaphore(capacity)
        self._ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def all(self, count: Callable[[Iterable[Response]], None] | None = None) -> list[Response]:
        """All responses, in the order of the prompts. ``count`` is called with those that have come."""
        found: dict[int, Response] = {}
        async with aclosing(self.responses()) as responses:
            async for index, response in responses:
                found[index] = response
                if count is not None:
                    count([response])
        return [found[index] for index in range(len(found))]

    async def responses(self) -> AsyncGenerator[tuple[int, Response]]:
        """Responses in the order in which they end."""
        # Apart from what is yielded: the next prompt may depend on an answer.
        feeder = self._begin(self._feed())
        total, taken = -1, 0
        try:
            while taken != total:
                task = await self._ended.get()
                self._tasks.discard(task)
                if task is feeder:
                    total = task.result()
                    continue
                taken += 1
                self._capacity.release()
                yield task.result()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _feed(self) -> int:
        count = 0
        await self._capacity.acquire()
        async for prompt in _each(self._prompts):
            self._begin(self._answer(count, prompt))
            count += 1
            await self._capacity.acquire()
        return count

    def _begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended.put_nowait)
        return task


async def _each(prompts: Iterable[AnyPrompt] | AsyncIterable[AnyPrompt]) -> AsyncIterator[AnyPrompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt
