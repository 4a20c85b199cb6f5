"""How a pool carries out one call of a public method: the part of all pools that nobody calls from outside."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Protocol

from aurora_pool.messages import AnyPrompt, AnyPrompts, Response
from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.pool_options import CallOptions, check_prompts
from aurora_pool.progress import OnCallProgress, ProgressReport
from aurora_pool.runtime.call import Call
from aurora_pool.runtime.fleet_runtime import FleetRuntime
from aurora_pool.runtime.membership import Membership
from aurora_pool.runtime.request_kinds import PlanPrompts

__all__ = ["CallInProgress", "PoolCalls"]


class CallInProgress(Protocol):
    """One call's prompts on their way, whatever answers them."""

    async def all(self, count: Callable[[Iterable[Response]], None] | None = None) -> list[Response]:
        """All responses, in the order of the prompts. ``count`` is called with those that have come."""
        ...

    def responses(self) -> AsyncGenerator[tuple[int, Response]]:
        """Responses as their prompts end, each with its prompt's index."""
        ...


class PoolCalls:
    """Calls to the agents of a pool or of a view, by its caller."""

    _runtime: FleetRuntime
    _agents: Membership
    _caller: Caller | None

    async def start(self) -> None:
        """Open the pool."""
        raise NotImplementedError

    async def _gather(self, queue: PromptQueue, prompts: Iterable[AnyPrompt], options: CallOptions) -> list[Response]:
        check_prompts(prompts)
        return await (await self._call(queue, prompts, options, None)).all()

    async def _reported(
        self, prompts: Iterable[AnyPrompt], options: CallOptions, on_progress: OnCallProgress | None, progress: bool
    ) -> list[Response]:
        check_prompts(prompts)
        total = max(-1, operator.length_hint(prompts, -1))
        with ProgressReport(None if total < 0 else total, on_progress=on_progress, progress=progress) as report:
            call = await self._call(self._agents.queue, prompts, options, None)
            return await call.all(report.count if report.wanted else None)

    async def _responses(
        self, prompts: AnyPrompts, options: CallOptions, total: int | None
    ) -> AsyncGenerator[tuple[int, Response]]:
        call = await self._call(self._agents.queue, prompts, options, total)
        async with aclosing(call.responses()) as responses:
            async for pair in responses:
                yield pair

    async def _call(
        self, queue: PromptQueue, prompts: AnyPrompts, options: CallOptions, total: int | None
    ) -> CallInProgress:
        await self.start()
        queue = queue.for_call(self._caller or Caller(weight=options.weight, priority=options.priority))
        return Call(self._runtime, queue, prompts, self._planner(queue, options), total, self._agents.positions)

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        """How this kind of pool makes items of one call's prompts."""
        raise NotImplementedError
