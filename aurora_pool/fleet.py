"""The fleet: carries out what the policy decides. Sends requests, feeds replies back, keeps one timer.

One per pool, shared by all its views. There is one task per HTTP request and none per prompt; the dispatcher's plan is
made once per turn of the event loop in which something happened.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from aurora_pool.batch import Batch, Sink
from aurora_pool.errors import PoolError, ServerError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.messages import Response
from aurora_pool.notices import PoolNotices
from aurora_pool.open_files import open_files_limit
from aurora_pool.options import Observer, Timeouts
from aurora_pool.policy.deal import Balance
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.lists import in_turn
from aurora_pool.policy.outcome import FINISHED
from aurora_pool.policy.work import FOREVER, Assignment, Failure, Lane, Ticket
from aurora_pool.probe import look, read_load, try_agent
from aurora_pool.wire.answer import Answer
from aurora_pool.wire.errors import refuses_streaming
from aurora_pool.wire.status import EngineLoad

LEARN_EVERY = 16
"""One prompt in so many calibrates the estimate of token counts."""


class Fleet:
    """The agents, the dispatcher over them, and the requests under way."""

    def __init__(
        self,
        endpoints: Sequence[AgentEndpoint],
        *,
        timeouts: Timeouts,
        balance: Balance,
        stream: bool,
        timeout: float | None,
        concurrency: int | None,
        connector_limit: int | None,
        observer: Observer | None,
        seed: int | None,
    ) -> None:
        from aurora_pool.transport import Transport  # noqa: PLC0415 (importing aiohttp takes long)

        self.endpoints = list(endpoints)
        self.timeouts = timeouts
        self._observed = observer is not None
        self.observer = observer = observer or Observer()
        self.stream = stream
        self.probe_request: tuple[str, bytes] = ("/health", b"")
        self.closed = False
        self.prompts_failed = 0
        self._unlearnt = LEARN_EVERY
        self.calls: set[Sink] = set()
        self.transport = Transport(endpoints, connect_timeout=timeouts.connect, connector_limit=connector_limit)
        self.dispatcher = Dispatcher(
            [str(endpoint) for endpoint in endpoints],
            rng=random.Random(seed),
            balance=balance,
            timeout=timeout,
            silence=timeouts.silence,
            requests_limit=max(2, open_files_limit() // 2 // max(1, len(endpoints))),
            notices=PoolNotices(self.endpoints, observer),
        )
        self._concurrency = concurrency
        self._queue: deque[Assignment] = deque()
        self._requests: dict[Assignment, asyncio.Task[None]] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._unstreamed: set[int] = set()
        self._removed: set[int] = set()
        self._loads: dict[int, EngineLoad | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._round: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind to the running event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self.transport.open()

    def update(self, endpoints: Sequence[AgentEndpoint]) -> list[int]:
        """Take in which endpoints the fleet has now; return their indices. Known ones keep theirs."""
        known = {endpoint.base_url: index for index, endpoint in enumerate(self.endpoints)}
        present = []
        for endpoint in endpoints:
            index = known.get(endpoint.base_url)
            if index is None:
                index = self.dispatcher.add_agent(str(endpoint))
                self.endpoints.append(endpoint)
            elif index in self._removed:
                self.dispatcher.restore_agent(index, self.now)
            present.append(index)
        self.transport.set_endpoints(self.endpoints)
        removed = set(range(len(self.endpoints))) - set(present)
        for index in sorted(removed - self._removed):
            self.dispatcher.remove_agent(index, self.now)
        self._removed = removed
        self.schedule()
        return present

    async def close(self) -> None:
        """Cancel what is under way and close all connections. Calls that still wait raise :class:`PoolError`."""
        self.closed = True
        for call in list(self.calls):
            call.crash(PoolError("the pool was closed while prompts were under way"))
        for handle in (self._round, self._timer):
            if handle is not None:
                handle.cancel()
        tasks = [*self._requests.values(), *self._errands]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.transport.close()
        self.dispatcher.close()

    @property
    def now(self) -> float:
        """The event loop's time; 0 before the pool is opened."""
        return self._loop.time() if self._loop is not None else 0.0

    # -- prompts ------------------------------------------------------------------------------------------------

    def admit(self, tickets: Sequence[Ticket]) -> None:
        """Take in prompts, in the order of their indices."""
        self.dispatcher.admit(tickets, self.now)
        self.schedule()

    def withdraw(self, tickets: Iterable[Ticket]) -> None:
        """Take in that the caller no longer wants these prompts: requests that serve nobody else are closed now."""
        self.dispatcher.withdraw(tickets, self.now)
        self._make_round()

    def capacity(self, lane: Lane) -> int:
        """How many prompts the agents of a lane may hold together."""
        agents = self.dispatcher.books.agents
        return max(1, sum(agents[index].window.size for index in lane.members if agents[index].in_service))

    # -- rounds -------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Have a plan made and carried out at the end of this turn of the event loop."""
        if self._round is None and self._loop is not None and not self.closed:
            self._round = self._loop.call_soon(self._make_round)

    def _make_round(self) -> None:
        if self.closed:
            return
        if self._round is not None:
            self._round.cancel()
            self._round = None
        plan = self.dispatcher.plan(self.now)
        for failure in plan.fail:
            self._fail(failure)
        for assignment in plan.close:
            task = self._requests.get(assignment)
            if task is not None:
                task.cancel()
        self._queue.extend(plan.send if self._concurrency is None else in_turn(plan.send))
        self._send_queued()
        for agent in plan.probe:
            self._errand(self._probe(agent))
        for agent in plan.check:
            self._errand(self._check(agent))
        for agent in plan.sample:
            self._errand(self._sample(agent))
        self._set_timer()

    def _set_timer(self) -> None:
        assert self._loop is not None
        due = self.dispatcher.wake_at
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._ring) if due < FOREVER else None

    def _ring(self) -> None:
        self._timer = None
        self._make_round()

    # -- requests -----------------------------------------------------------------------------------------------

    def _send_queued(self) -> None:
        assert self._loop is not None
        while self._queue and (self._concurrency is None or len(self._requests) < self._concurrency):
            assignment = self._queue.popleft()
            if not assignment.closed:
                self.observer.request_sent(assignment.agent, assignment.live)
                task = self._loop.create_task(self._request(assignment))
                self._requests[assignment] = task
                task.add_done_callback(functools.partial(self._over, assignment))

    def _over(self, assignment: Assignment, task: asyncio.Task[None]) -> None:
        del self._requests[assignment]
        if not task.cancelled():
            task.exception()  # its call has it; asyncio need not mention it
        if self._queue:
            self._send_queued()

    async def _request(self, assignment: Assignment) -> None:
        tickets = [ticket for ticket in assignment.tickets if ticket is not None]
        batch: Batch = tickets[0].batch
        stream = self.stream and batch.streams and assignment.agent not in self._unstreamed
        try:
            try:
                await self._exchange_until_accepted(assignment, batch, tickets, stream)
            except PoolError as error:
                self.dispatcher.failed(assignment, error, self.now)
            else:
                self.dispatcher.ended(assignment)
        except Exception as error:
            batch.call.crash(error)  # a defect: here, or in an observer
            raise
        finally:
            self.schedule()

    async def _exchange_until_accepted(
        self, assignment: Assignment, batch: Batch, tickets: list[Ticket], stream: bool
    ) -> None:
        """Make the exchange; where the server refuses only its form, make it again in the form that it takes."""
        unstreamed = False
        while True:
            try:
                await self._exchange(assignment, batch, tickets, stream)
            except ServerError as error:
                if stream and refuses_streaming(error):
                    stream, unstreamed = False, True
                elif not batch.refit(tickets, error):
                    raise
            else:
                if unstreamed:
                    self._unstreamed.add(assignment.agent)
                return

    async def _exchange(self, assignment: Assignment, batch: Batch, tickets: list[Ticket], stream: bool) -> None:
        body = batch.encode(tickets, stream=stream)
        agent = assignment.agent
        with await self.transport.request(
            agent, batch.path, body, method=batch.method, headers=batch.headers
        ) as exchange:
            await batch.receive(exchange, assignment, self)

    def answers(self, assignment: Assignment, batch: Batch, answers: Sequence[Answer], now: float) -> None:
        """Take in the parts of a reply that belong to one prompt each."""
        finished = [answer for answer in answers if answer.finish_reason in FINISHED]
        if len(finished) < len(answers):
            self._unfinished(assignment, answers, now)
        first = self.dispatcher.answered_together(assignment, finished, now)
        if not first:
            return
        self._learn(batch, *first[0], len(first))
        call = batch.call
        where = call.agent_index(assignment.agent)
        self._deliver(
            call,
            [
                (
                    ticket.index,
                    Response(
                        True,
                        answer.text,
                        None,
                        where,
                        None,
                        answer.finish_reason,
                        None if (usage := answer.usage) is None else usage.prompt_tokens,
                        None if usage is None else usage.completion_tokens,
                        answer.reasoning,
                        answer.logprobs,
                        answer.token_ids,
                        ticket.sends,
                        now - ticket.first_sent,
                        answer.samples,
                        answer.prompt_token_ids,
                        answer.prompt_logprobs,
                        answer.embedding,
                    ),
                )
                for ticket, answer in first
            ],
        )

    def _learn(self, batch: Batch, ticket: Ticket, answer: Answer, answers: int) -> None:
        """Calibrate the estimate of token counts, by one of these answers now and then."""
        self._unlearnt += answers
        if self._unlearnt >= LEARN_EVERY and answer.usage is not None:
            self._unlearnt = 0
            batch.learn(ticket, answer.usage)

    def _unfinished(self, assignment: Assignment, answers: Sequence[Answer], now: float) -> None:
        for answer in answers:
            if answer.finish_reason not in FINISHED:
                reason = f"finish_reason {answer.finish_reason!r}"
                self.dispatcher.broke(assignment, answer.slot, reason, now, started=answer.started)

    def _fail(self, failure: Failure) -> None:
        self.prompts_failed += 1
        ticket = failure.ticket
        call: Sink = ticket.batch.call
        latency = self.now - ticket.first_sent if ticket.first_sent >= 0 else 0.0
        where = call.agent_index(failure.agent)
        response = Response(False, "", failure.error, where, failure.kind, attempts=ticket.sends, latency=latency)
        self._deliver(call, [(ticket.index, response)])

    def _deliver(self, call: Sink, results: Sequence[tuple[int, Response]]) -> None:
        call.deliver(results)
        if self._observed:
            for _, response in results:
                self.observer.prompt_done(response)

    # -- errands ------------------------------------------------------------------------------------------------

    def _errand(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _probe(self, agent: int) -> None:
        path, body = self.probe_request
        outcome, reason = await try_agent(self.transport, agent, path, body, within=self.timeouts.probe)
        self.dispatcher.probed(agent, outcome, reason, self.now)
        self.schedule()

    async def _check(self, agent: int) -> None:
        finding, load = await look(self.transport, agent, self._loads.get(agent), within=self.timeouts.probe)
        self._loads[agent] = load
        self.dispatcher.looked(agent, finding, self.now)
        self.schedule()

    async def _sample(self, agent: int) -> None:
        load = await read_load(self.transport, agent, within=self.timeouts.probe)
        if load is not None:
            running, waiting, preemptions = int(load.running), int(load.waiting), int(load.preemptions)
            self.dispatcher.sampled(agent, running, waiting, preemptions, self.now)
