"""Carry out what the policy decides: send requests, feed replies back, keep one timer.

One per pool, shared by all its views. There is one task per HTTP request and none per prompt; the dispatcher's plan is
made once per turn of the event loop in which something happened.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from aurora_pool.errors import ConfigError, PoolClosedError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import Response
from aurora_pool.options import ConnectionOptions, HostedOptions, Observer, Timeouts
from aurora_pool.policy.batching import in_turn
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.plan import Failure
from aurora_pool.policy.quota import Budget
from aurora_pool.policy.timers import FOREVER
from aurora_pool.policy.work import InFlightRequest, Lot, WorkItem
from aurora_pool.runtime.agent_checks import AgentChecks
from aurora_pool.runtime.dialects import Dialects
from aurora_pool.runtime.events import Announcer, EventRelay
from aurora_pool.runtime.exchange import Exchanges
from aurora_pool.runtime.fleet_options import FleetOptions
from aurora_pool.runtime.open_files import open_files_limit
from aurora_pool.runtime.request_kinds import Sink, beginning
from aurora_pool.runtime.served_names import ServedNames


class FleetRuntime:
    """The agents, the dispatcher over them, and the requests in flight."""

    def __init__(self, endpoints: Sequence[AgentEndpoint], options: FleetOptions) -> None:
        from aurora_pool.runtime.transport import Transport  # noqa: PLC0415 (importing aiohttp takes long)

        self.endpoints = list(endpoints)
        self.timeouts = options.timeouts or Timeouts()
        self._observed = options.observer is not None
        self.observer: Observer = Announcer(options.observer or Observer())
        self.closed = False
        self.prompts_failed = 0
        self.calls: set[Sink] = set()
        self.transport = Transport(
            endpoints,
            connect_timeout=self.timeouts.connect,
            connector_limit=options.connector_limit,
            connection=options.connection or ConnectionOptions(),
        )
        self.dispatcher = Dispatcher(
            [str(endpoint) for endpoint in endpoints],
            rng=options.rng or random.Random(),
            balance=options.balance,
            timeout=options.timeout,
            stall=self.timeouts.stall,
            requests_limit=max(2, open_files_limit() // 2 // max(1, len(endpoints))),
            events=EventRelay(self.endpoints, self.observer),
            beginning_of=beginning if options.prefix == "auto" else None,
            hosted={index: terms for index, each in enumerate(endpoints) if (terms := each.hosted) is not None},
        )
        self.names = ServedNames()
        self.dialects = Dialects(self.dispatcher, self.endpoints)
        self._exchanges = Exchanges(
            self.transport,
            self.dispatcher,
            clock=lambda: self.now,
            deliver=self._deliver,
            on_sent=self._on_sent,
            schedule=self.schedule,
            names=self.names,
            dialects=self.dialects,
            stream=options.stream,
        )
        self._agent_checks = AgentChecks(
            self.transport,
            self.dispatcher,
            self.names,
            self.dialects,
            clock=lambda: self.now,
            schedule=self.schedule,
            within=self.timeouts.probe,
        )
        self.probe_requests = self._agent_checks.probe_requests
        self._deadline: float | None = None
        self._most_requests = min(filter(None, (options.concurrency, options.connector_limit)), default=None)
        self._admitted: list[list[WorkItem] | Lot] = []
        self._queue: deque[InFlightRequest] = deque()
        self._requests: dict[InFlightRequest, asyncio.Task[None]] = {}
        self._background_tasks: set[asyncio.Task[None]] = set()
        self._removed: set[int] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._round: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_due = FOREVER

    # -- life ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind to the running event loop.

        Raises :class:`ConfigError` in any other than the first, and :class:`PoolClosedError` once it is closed.
        """
        if self.closed:
            raise PoolClosedError("this pool is closed")
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
            if self._deadline is not None:
                self.dispatcher.spill.deadline = self.now + self._deadline - time.time()
            self.transport.open()
        elif self._loop is not running:
            raise ConfigError(
                "this pool belongs to the event loop in which it was used first: make one pool in each asyncio.run(), "
                "or use pool.sync() where there is none and from several threads"
            )

    @property
    def is_open(self) -> bool:
        """Whether it is bound to an event loop, and not closed."""
        return self._loop is not None and not self.closed

    def update(self, endpoints: Sequence[AgentEndpoint]) -> list[int]:
        """Record which endpoints the fleet has now; return their indices. Known ones keep theirs.

        A known one may have other tags now, another key among them. Raises :class:`ConfigError`, with nothing changed,
        for an endpoint that can't be used.
        """
        known = {endpoint.base_url: index for index, endpoint in enumerate(self.endpoints)}
        updated = list(self.endpoints)
        present: dict[int, None] = {}
        for endpoint in endpoints:
            index = known.setdefault(endpoint.base_url, len(updated))
            updated[index : index + 1] = [endpoint]
            present[index] = None
        self.transport.set_endpoints(updated)
        for endpoint in updated[len(self.endpoints) :]:
            self.dispatcher.add_agent(str(endpoint))
        self.endpoints[:] = updated
        self.dialects.set_endpoints(updated)
        for index in present:
            self.dispatcher.spill.set_terms(index, updated[index].hosted)
        for index in sorted(self._removed.intersection(present)):
            self.dispatcher.restore_agent(index, self.now)
        removed = set(range(len(updated))).difference(present)
        for index in sorted(removed - self._removed):
            self.dispatcher.remove_agent(index, self.now)
        self._removed = removed
        self.schedule()
        return list(present)

    def is_removed(self, agent: int) -> bool:
        """Whether an agent is no longer part of the fleet."""
        return agent in self._removed

    def spill_over(self, options: HostedOptions) -> None:
        """Say when hosted agents are asked, and what they may cost."""
        spill = self.dispatcher.spill
        spill.budget = Budget(options.max_cost, spent=options.spent, on_draw=options.on_draw)
        spill.after, self._deadline = options.spill_after, options.deadline
        if options.drivers > 1:
            spill.divide(options.drivers)

    def is_hosted(self, agent: int) -> bool:
        """Whether an agent is one that others run, and that costs."""
        return self.dispatcher.is_hosted(agent)

    async def close(self) -> None:
        """Cancel what is in flight and close all connections. Calls that still wait raise :class:`PoolClosedError`."""
        self.closed = True
        for call in list(self.calls):
            call.fail(PoolClosedError("the pool was closed while prompts were in flight"))
        for handle in (self._round, self._timer):
            if handle is not None:
                handle.cancel()
        tasks = [*self._requests.values(), *self._background_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.transport.close()
        self._admitted.clear()
        self.dispatcher.close()

    @property
    def now(self) -> float:
        """The event loop's time; 0 before the pool is opened."""
        return self._loop.time() if self._loop is not None else 0.0

    # -- prompts ------------------------------------------------------------------------------------------------

    def admit(self, prompts: list[WorkItem] | Lot) -> None:
        """Take prompts, in the order of their indices; the next plan admits all that came until then together."""
        if self._admitted and isinstance(prompts, list) and isinstance(self._admitted[-1], list):
            self._admitted[-1] += prompts
        else:
            self._admitted.append([*prompts] if isinstance(prompts, list) else prompts)
        self.schedule()

    def withdraw(self, items: Iterable[WorkItem]) -> None:
        """Withdraw prompts that the caller no longer wants; requests that hold no others are closed now."""
        self._admit()
        self.dispatcher.withdraw(items, self.now)
        self._make_round()

    def withdraw_all(self, materialized: list[WorkItem]) -> None:
        """Withdraw all prompts of a caller: those ``materialized``, and those of lots that add to it."""
        self._admit()
        self.dispatcher.withdraw_all(materialized, self.now)
        self._make_round()

    def capacity(self, queue: PromptQueue) -> int:
        """How many prompts the agents of a queue may hold together."""
        agents = self.dispatcher.ledger.agents
        members = (*queue.view.members, *queue.view.hosted) if queue.view.hosted else queue.view.members
        return max(1, sum(agents[index].window.size for index in members if agents[index].in_service))

    # -- rounds -------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Schedule a plan for the end of this turn of the event loop."""
        if self._round is None and self._loop is not None and not self.closed:
            self._round = self._loop.call_soon(self._make_round)

    def _make_round(self) -> None:
        if self.closed:
            return
        if self._round is not None:
            self._round.cancel()
            self._round = None
        try:
            self._carry_out_plan()
        except BaseException as error:
            self._defect(error)
            raise

    def _defect(self, error: BaseException) -> None:
        """Fail all calls after a defect of this program, whose decisions are lost."""
        for call in list(self.calls):
            call.fail(error)

    def _carry_out_plan(self) -> None:
        self._admit()
        plan = self.dispatcher.plan(self.now)
        for failure in plan.fail:
            self._fail(failure)
        for request in plan.close:
            task = self._requests.get(request)
            if task is not None:
                task.cancel()
        self._queue.extend(plan.send if self._most_requests is None else in_turn(plan.send))
        self._send_queued()
        for work in self._agent_checks.of(plan):
            self.run_in_background(work)
        self._set_timer()

    def _admit(self) -> None:
        admitted, self._admitted = self._admitted, []
        for prompts in admitted:
            self.dispatcher.admit(prompts, self.now)

    def _set_timer(self) -> None:
        assert self._loop is not None
        due = self.dispatcher.wake_at
        if self._timer is not None:
            # Not by the handle's when(): for what is due at once, uvloop gives one that has none.
            if self._timer_due <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._on_timer) if due < FOREVER else None

    def _on_timer(self) -> None:
        self._timer = None
        self._make_round()

    # -- requests -----------------------------------------------------------------------------------------------

    def _send_queued(self) -> None:
        assert self._loop is not None
        while self._queue and (self._most_requests is None or len(self._requests) < self._most_requests):
            request = self._queue.popleft()
            if request.closed:
                self.dispatcher.spill.charge(request, None, self.now, answered_with_error=False)
            else:
                task = self._loop.create_task(self._exchanges.run(request))
                self._requests[request] = task
                task.add_done_callback(functools.partial(self._on_request_done, request))

    def _on_sent(self, request: InFlightRequest) -> None:
        """Record that there is a connection, and the request begins to be written."""
        if request.sent_at is None:
            self.dispatcher.sent(request, self.now)
            if self._observed:
                self.observer.request_sent(request.agent, request.live)
            self._set_timer()

    def _on_request_done(self, request: InFlightRequest, task: asyncio.Task[None]) -> None:
        del self._requests[request]
        if self.dispatcher.spill.agents:  # only one that was stopped before it began is still to be charged
            self.dispatcher.spill.charge(request, None, self.now, answered_with_error=False)
        if not task.cancelled():
            task.exception()  # its call has it; asyncio need not mention it
        if self._queue:
            self._send_queued()

    def _fail(self, failure: Failure) -> None:
        self.prompts_failed += 1
        item = failure.item
        sink: Sink = item.kind.sink
        latency = self.now - item.first_sent if item.first_sent >= 0 else 0.0
        where = sink.agent_index(failure.agent)
        response = Response(False, "", failure.error, where, failure.kind, attempts=item.sends, latency=latency)
        self._deliver(sink, [item.index], [response])

    def _deliver(self, sink: Sink, indices: Sequence[int], responses: Sequence[Response]) -> None:
        sink.deliver(indices, responses)
        if self._observed:
            for response in responses:
                self.observer.prompt_done(response)

    # -- background tasks ---------------------------------------------------------------------------------------

    def run_in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something until the pool is closed. An error of it is a defect of this program, and ends all calls."""
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._on_background_done)

    def _on_background_done(self, task: asyncio.Task[None]) -> None:
        self._background_tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect(error)
