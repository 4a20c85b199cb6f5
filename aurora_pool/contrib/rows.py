"""Rows of tables, answered for frameworks that bring their own threads and event loops: Ray, Dask, Hugging Face.

The pool lives in an event loop of its own, in a thread of its own: frameworks block theirs while they fetch and write
data, and no agent is to wait for that. What all callers ask at a time is one stream of prompts to the pool, so it goes
in the same lists as the lines of a file would, however small the callers' batches are.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack

from aurora_pool.arguments import check_instance
from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.hostfile import AgentEndpoint, AnyEndpoint, as_endpoints
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.jobs.frames import is_empty
from aurora_pool.messages import AnyPrompt, Prompt, Response, Sampling
from aurora_pool.patterns.templates import render
from aurora_pool.pool import VLLMPool
from aurora_pool.pool_options import CallOptions, VLLMPoolOptions
from aurora_pool.sharing import AgentShare

__all__ = ["RowPool", "RowPromptOptions", "RowPrompts", "beside", "columns_of"]

T = TypeVar("T")

LINGER = 0.2
"""Seconds without a new prompt after which the end of the input has come, as far as the fleet is concerned."""
TELL_EVERY = 1.0
SUFFIXES = ("", "_finish_reason", "_prompt_tokens", "_completion_tokens", "_error")
"""What is put behind the name of the answers' column for each of the columns that :func:`columns_of` gives."""


class RowPool:
    """A pool that answers prompts for any thread and any event loop.

    ``hostfile`` is its path, or the agents; ``options`` are those of :class:`~aurora_pool.pool.VLLMPool`. With a
    ``share``, it works with a part of the agents, and with those that other processes lend. Raises what
    :meth:`VLLMPool.start` raises.

    >>> rows = RowPool("fleet.hostfile", max_tokens=16)  # doctest: +SKIP
    >>> [response.text for response in rows.answer(["Name a colour.", "Name a tree."])]  # doctest: +SKIP
    """

    def __init__(
        self,
        hostfile: str | Path | Iterable[AnyEndpoint],
        *,
        share: AgentShare | None = None,
        **options: Unpack[VLLMPoolOptions],
    ) -> None:
        endpoints = endpoints_of(hostfile)
        self._share = share
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aurora-pool", daemon=True)
        self._thread.start()
        try:
            self._run(self._open(endpoints, options)).result()
        except BaseException:
            self._end_thread()
            raise

    def answer(self, prompts: Sequence[AnyPrompt]) -> list[Response]:
        """Answer prompts; waits for all of them. Raises :class:`NoAgentsError` if no agent has been there to answer."""
        return _present(self._run(self._stream.ask(prompts)).result())

    async def answer_async(self, prompts: Sequence[AnyPrompt]) -> list[Response]:
        """Answer prompts as :meth:`answer` does, in an event loop that has other things to do."""
        return _present(await asyncio.wrap_future(self._run(self._stream.ask(prompts))))

    @property
    def requests(self) -> int:
        """How many HTTP requests have been sent."""
        return self._pool.statistics().requests

    def close(self) -> None:
        """Close the pool and end the thread."""
        if self._thread.is_alive():
            self._run(self._stack.aclose()).result()
            self._end_thread()

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self, endpoints: Sequence[AgentEndpoint], options: VLLMPoolOptions) -> None:
        async with AsyncExitStack() as stack:
            if self._share is not None:
                endpoints = self._share.select(endpoints)
                stack.callback(self._share.leave)
            self._pool = VLLMPool(endpoints, **options)
            stack.push_async_callback(self._pool.close)
            await self._pool.start()
            self._stream = _Stream(self._pool)
            if self._share is not None:
                for work in (self._share.follow(self._pool.update_endpoints), self._tell()):
                    stack.callback(asyncio.create_task(work).cancel)
            self._stack = stack.pop_all()

    async def _tell(self) -> None:
        assert self._share is not None
        while True:
            self._share.tell(self._pool.statistics(), exhausted=not self._stream.is_fed)
            await asyncio.sleep(TELL_EVERY)


def endpoints_of(hostfile: str | Path | Iterable[AnyEndpoint]) -> list[AgentEndpoint]:
    """Give the agents of a hostfile, of which there is the path, or the agents themselves."""
    return parse_hostfile(hostfile) if isinstance(hostfile, str | Path) else as_endpoints(hostfile)


class _Stream:
    """What all callers ask, as one call of the pool for as long as prompts keep coming."""

    def __init__(self, pool: VLLMPool) -> None:
        self._pool = pool
        self._waiting: deque[tuple[AnyPrompt, asyncio.Future[Response]]] = deque()
        self._arrived = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self.is_fed = False
        """Whether the latest call still takes prompts."""

    async def ask(self, prompts: Iterable[AnyPrompt]) -> list[Response]:
        loop = asyncio.get_running_loop()
        futures = []
        for prompt in prompts:
            futures.append(loop.create_future())
            self._waiting.append((prompt, futures[-1]))
        self._arrived.set()
        if futures and not self.is_fed:
            self.is_fed = True
            call = loop.create_task(self._answer())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return [await future for future in futures]

    async def _answer(self) -> None:
        asked: dict[int, asyncio.Future[Response]] = {}
        try:
            async for index, response in self._pool.iter_responses(self._prompts(asked)):
                future = asked.pop(index)
                if not future.done():  # its caller may have given up
                    future.set_result(response)
        except Exception as error:
            for future in [*asked.values(), *(future for _, future in self._waiting)]:
                if not future.done():
                    future.set_exception(error)
            self._waiting.clear()
            self.is_fed = False
            raise

    async def _prompts(self, asked: dict[int, asyncio.Future[Response]]) -> AsyncGenerator[AnyPrompt]:
        pulled = 0
        while True:
            while self._waiting:
                prompt, asked[pulled] = self._waiting.popleft()
                pulled += 1
                yield prompt
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), LINGER)
            except TimeoutError:
                if not self._waiting:
                    self.is_fed = False
                    return


class RowPromptOptions(TypedDict, total=False):
    """The options of :class:`RowPrompts`."""

    prompt_column: str
    template: str | None
    max_tokens: int | None
    sampling: Sampling | None


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """How rows become prompts: by ``prompt_column``, or by a ``template`` with ``{column}`` where a value belongs."""

    prompt_column: str = "prompt"
    template: str | None = None
    max_tokens: int | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        check_instance("prompt_column", self.prompt_column, str, optional=False)
        check_instance("template", self.template, str)
        CallOptions(self.max_tokens, self.sampling, batched=True)

    def needed(self, names: Iterable[str]) -> list[str]:
        """Tell which of a table's columns are looked at.

        Raises :class:`~aurora_pool.errors.ConfigError` if there are none.
        """
        names = list(names)
        if self.template is None:
            used = [name for name in names if name == self.prompt_column]
            reason = f"there is no column {self.prompt_column!r}"
        else:
            used = [name for name in names if f"{{{name}}}" in self.template]
            reason = "the template names no column"
        if not used:
            raise ConfigError(f"{reason}; there are {', '.join(map(repr, names))}")
        return used

    def of(self, columns: Mapping[str, Sequence[Any]]) -> list[Prompt | None]:
        """Make the prompt of each row; None for one with an empty cell (null, NaN). ``columns`` are those needed."""
        if self.template is None:
            texts = [cell if isinstance(cell, str | list) and cell else None for cell in columns[self.prompt_column]]
        else:
            texts = [
                None if any(map(is_empty, row)) else render(self.template, **dict(zip(columns, row, strict=True)))
                for row in zip(*columns.values(), strict=True)
            ]
        return [None if text is None else Prompt(text, self.sampling, self.max_tokens) for text in texts]


def columns_of(column: str, responses: Sequence[Response | None]) -> dict[str, list[Any]]:
    """Make what is put beside the rows: the answer (null where it failed), why it ended, tokens, and the error.

    >>> columns_of("answer", [Response(True, "Red", finish_reason="stop", prompt_tokens=4, completion_tokens=1), None])
    {'answer': ['Red', None], 'answer_finish_reason': ['stop', None], 'answer_prompt_tokens': [4, None],
     'answer_completion_tokens': [1, None], 'answer_error': [None, 'the row has no prompt']}
    """
    cells = [
        (None, None, None, None, "the row has no prompt")
        if response is None
        else (
            response.text if response.success else None,
            response.finish_reason,
            response.prompt_tokens,
            response.completion_tokens,
            None if response.success else f"{response.error_kind}: {response.error}",
        )
        for response in responses
    ]
    return {f"{column}{suffix}": [row[number] for row in cells] for number, suffix in enumerate(SUFFIXES)}


def beside(prompts: Sequence[Prompt | None], responses: Iterable[Response]) -> list[Response | None]:
    """Put the responses to the rows that have a prompt where those rows are."""
    left = iter(responses)
    return [None if prompt is None else next(left) for prompt in prompts]


def _present(responses: list[Response]) -> list[Response]:
    for response in responses:
        if response.error_kind == "no_agents":
            # That says nothing about the row: who asked is to ask again when there are agents.
            raise NoAgentsError(response.error or "no agent is in service")
    return responses
