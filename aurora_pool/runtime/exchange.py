"""One HTTP request: write its prompts, send it, read the reply, report what came to the dispatcher and the callers."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from aurora_pool.errors import BadReply, ConnectionLost, PoolError, ServerError
from aurora_pool.hosted import Left
from aurora_pool.messages import Response, Usage
from aurora_pool.policy.answers import Results
from aurora_pool.policy.callers import EXPECTED_TOKENS
from aurora_pool.policy.dispatch import Dispatcher
from aurora_pool.policy.outcome import FILTERED, FINISHED
from aurora_pool.policy.work import InFlightRequest
from aurora_pool.runtime.plain_chat import REPLY_WITHIN, PlainChat
from aurora_pool.runtime.request_kinds import RequestKind, Sink
from aurora_pool.wire.answer import Answer, Finished, Reader, finished, guarded
from aurora_pool.wire.bounds import Bounds
from aurora_pool.wire.errors import refuses_streaming
from aurora_pool.wire.sse import EventSplitter, begins_events

if TYPE_CHECKING:
    from aurora_pool.runtime.dialects import Dialects
    from aurora_pool.runtime.reply import Reply
    from aurora_pool.runtime.served_names import ServedNames
    from aurora_pool.runtime.transport import Transport

CALIBRATE_EVERY = 16
"""One prompt in this many calibrates the estimate of token counts."""

Deliver = Callable[[Sink, Sequence[int], Sequence[Response]], None]


class Exchanges:
    """Makes the requests that the runtime hands over, one task each; nothing here decides where a prompt goes."""

    def __init__(
        self,
        transport: Transport,
        dispatcher: Dispatcher,
        *,
        clock: Callable[[], float],
        deliver: Deliver,
        on_sent: Callable[[InFlightRequest], None],
        schedule: Callable[[], None],
        names: ServedNames,
        dialects: Dialects,
        stream: bool,
    ) -> None:
        self._transport = transport
        self._dispatcher = dispatcher
        self._clock = clock
        self._deliver = deliver
        self._on_sent = on_sent
        self._schedule = schedule
        self._names = names
        self._dialects = dialects
        self._stream = stream
        self._unstreamed: set[int] = set()
        """Agents that refuse streamed requests."""
        self._uncalibrated = CALIBRATE_EVERY

    async def run(self, request: InFlightRequest) -> None:
        """Make one request and see it to its end, whatever that is. Raises only what is a defect of this program."""
        if request.closed:  # before its turn came
            return
        kind: RequestKind = request.kind
        quota = self._dispatcher.ledger.agents[request.agent].quota
        portable = request.portable
        if portable is not None and (quota is not None or self._dialects.needs_chat(request.agent, kind.fields)):
            kind = PlainChat(kind, portable, quota.terms.model if quota is not None else None)
        answered_with_error = False
        try:
            try:
                async with self._transport.turn:
                    if quota is None:
                        await self._until_accepted(request, kind)
                    else:
                        await self._in_time(request, kind)
            except PoolError as error:
                answered_with_error = isinstance(error, ServerError)
                now = self._clock()
                if isinstance(error, ConnectionLost) and not error.received and request.sent_at is not None:
                    error.idle_seconds = now - request.sent_at
                self._dispatcher.failed(request, error, now)
            else:
                self._dispatcher.ended(request)
        except Exception as error:
            kind.sink.fail(error)  # a defect: here, or in an observer
            raise
        finally:
            if isinstance(kind, PlainChat):
                self._dispatcher.spill.charge(
                    request, kind.usage, self._clock(), answered_with_error=answered_with_error
                )
            self._schedule()

    async def _in_time(self, request: InFlightRequest, kind: RequestKind) -> None:
        try:
            async with asyncio.timeout(REPLY_WITHIN):
                await self._until_accepted(request, kind)
        except TimeoutError as error:
            raise ConnectionLost(f"no whole reply within {REPLY_WITHIN:.0f} s", received=False) from error

    async def _until_accepted(self, request: InFlightRequest, kind: RequestKind) -> None:
        """Send it; where the server refuses only its form, send it again in the form that it takes."""
        agent, contents = request.agent, request.contents
        quota = self._dispatcher.ledger.agents[agent].quota
        interval = 0
        if self._stream and agent not in self._unstreamed:
            interval = kind.interval(request.token_budget, self._dispatcher.ledger.agents[agent])
        refused_streaming = False
        while True:
            try:
                body = kind.encode(contents, request.token_budget, interval=interval)
                dialect = self._dialects.of(agent)
                if kind.model:
                    body = self._dialects.write(agent, kind.path, body)
                with await self._transport.request(
                    agent,
                    kind.path,
                    body,
                    method=kind.method,
                    headers=kind.headers,
                    on_sent=functools.partial(self._on_sent, request),
                ) as reply:
                    if not request.closed:  # else nobody wants the reply any more
                        await kind.receive(reply, request, self)
            except ServerError as error:
                if interval and refuses_streaming(error):
                    interval, refused_streaming = 0, True
                elif kind.model and self._dialects.refused(agent, error, dialect):
                    # Without lists they go one by one, and each request to a hosted agent needs a place in its quota.
                    if quota is not None or (len(contents) > 1 and not self._dialects.of(agent).lists):
                        self._dispatcher.ledger.give_back(request, self._clock())
                        raise
                elif not kind.fit_max_tokens(request, error):
                    raise
            else:
                if refused_streaming:
                    self._unstreamed.add(agent)
                return

    # -- what request kinds report while they read ----------------------------------------------------------------

    async def read_answers(
        self, reply: Reply, reader: Reader, bounds: Bounds, kind: RequestKind, request: InFlightRequest
    ) -> None:
        """Read a reply of either form, whichever was asked for, and report each answer as soon as it is finished.

        Raises :class:`TransportError`, :class:`ServerError` and :class:`BadReply`.
        """
        try:
            await self._read(reply, reader, bounds, kind, request)
        except ConnectionLost as error:
            error.idle_seconds = self._clock() - reply.read_at
            raise
        except (ServerError, BadReply) as error:
            reply.redacted(error)
            raise

    async def _read(
        self, reply: Reply, reader: Reader, bounds: Bounds, kind: RequestKind, request: InFlightRequest
    ) -> None:
        """Read the body. Its beginning shows whether it is events: some servers and proxies give a wrong type."""
        if reply.status != 200:
            raise await reply.error()
        start: list[bytes] = []
        size = 0
        splitter: EventSplitter | None = None
        async for chunk in reply.chunks(bounds.stream):
            if splitter is not None:
                self._take_events(splitter.feed(chunk), reader, kind, request, reply.read_at)
                continue
            start.append(chunk)
            size += len(chunk)
            if begins_events(start[0] if len(start[0]) > 8 else b"".join(start), named_so=reply.is_event_stream):
                splitter = EventSplitter(bounds.event)
                self._take_events(splitter.feed(b"".join(start)), reader, kind, request, reply.read_at)
            elif size > bounds.body:
                raise BadReply(f"a reply of more than {bounds.body} bytes, far more than was asked for")
            else:
                self._dispatcher.progress(request, reply.read_at)
        if splitter is not None:
            self._take_events(splitter.end(), reader, kind, request, reply.read_at)
        else:
            found = guarded(reader.whole, b"".join(start))
            self._names.check(request.agent, kind.model, reader.model)
            self._answers(request, kind, found, reply.read_at)
        if request.live:
            raise BadReply("the reply ended before every prompt had its answer")

    def _take_events(
        self, events: list[bytes], reader: Reader, kind: RequestKind, request: InFlightRequest, now: float
    ) -> None:
        try:
            guarded(reader.events, events)
        finally:  # what came before an event that says that the rest failed is kept
            self._names.check(request.agent, kind.model, reader.model)
            started, ended = reader.take()
            self._dispatcher.progress(request, now, started)
            if ended:
                self._answers(request, kind, finished(ended), now)
        self._schedule()

    def progress(self, request: InFlightRequest) -> None:
        """Report that bytes of a reply came."""
        self._dispatcher.progress(request, self._clock())

    def limits_reported(self, agent: int, requests: Left | None, tokens: Left | None) -> None:
        """Report what an agent says is left of its limits."""
        self._dispatcher.spill.update_limits(self._dispatcher.ledger.agents[agent], requests, tokens, self._clock())

    def commit(self, request: InFlightRequest) -> None:
        """Report that bytes of this reply go to the caller now, so that no other agent may answer any more."""
        if self._dispatcher.commit(request, self._clock()):
            self._schedule()

    def answered(self, request: InFlightRequest, usage: Usage | None) -> None:
        """Report that the one prompt of a request has its answer, and its caller has read it."""
        item = request.items[0]
        if item is not None:
            item.queue.caller.prompted(EXPECTED_TOKENS if usage is None else usage.prompt_tokens)
        tokens = 0 if usage is None else usage.completion_tokens
        self._dispatcher.answered(request, 0, tokens, self._clock(), started=False)

    # -- answers ----------------------------------------------------------------------------------------------

    def _answers(self, request: InFlightRequest, kind: RequestKind, found: Finished, now: float) -> None:
        if not found.reasons <= FINISHED:
            self._unfinished(request, found.answers, now)
            found = finished([answer for answer in found.answers if answer.finish_reason in FINISHED])
        reasons = found.reasons
        results = self._dispatcher.answered_together(request, found.answers, found.slots, found.tokens, now)
        if not results.answers:
            return
        self._calibrate(request, kind, results)
        sink = kind.sink
        where = sink.agent_index(request.agent)
        latency = now - (now if request.sent_at is None else request.sent_at)
        if kind.text_only and not results.items and FILTERED not in reasons:  # the same at half the cost
            self._deliver(sink, results.indices, _texts(results.answers, where, latency))
            return
        firsts = [(item.sends, now - item.first_sent) for item in results.items]
        responses = [
            Response(
                (unfiltered := answer.finish_reason != FILTERED),
                answer.text,
                None if unfiltered else "the server's content filter ended the answer",
                where,
                None if unfiltered else "rejected",
                answer.finish_reason,
                None if (usage := answer.usage) is None else usage.prompt_tokens,
                None if usage is None else usage.completion_tokens,
                answer.reasoning,
                answer.logprobs,
                answer.token_ids,
                attempts,
                latency,
                answer.samples,
                answer.prompt_token_ids,
                answer.prompt_logprobs,
                answer.embedding,
                answer.tool_calls,
            )
            for answer, (attempts, latency) in zip(results.answers, firsts or repeat((1, latency)), strict=False)
        ]
        self._deliver(sink, results.indices, responses)

    def _calibrate(self, request: InFlightRequest, kind: RequestKind, results: Results[Answer]) -> None:
        """Calibrate the estimate of token counts, by one of these answers now and then."""
        self._uncalibrated += len(results.answers)
        answer = results.answers[0]
        if self._uncalibrated >= CALIBRATE_EVERY and answer.usage is not None:
            self._uncalibrated = 0
            content = results.items[0].work if results.items else request.contents[answer.slot]
            kind.calibrate(content, answer.usage)

    def _unfinished(self, request: InFlightRequest, answers: Sequence[Answer], now: float) -> None:
        for answer in answers:
            if answer.finish_reason not in FINISHED:
                reason = f"finish_reason {answer.finish_reason!r}"
                self._dispatcher.aborted(request, answer.slot, reason, now, started=answer.started)


def _texts(answers: Sequence[Answer], where: int | None, latency: float) -> list[Response]:
    """The responses of prompts that were sent once, and whose answers are texts and nothing else.

    All is given by position: by name it would cost an eighth more.
    """
    return [
        Response(
            True,
            answer.text,
            None,
            where,
            None,
            answer.finish_reason,
            None if (usage := answer.usage) is None else usage.prompt_tokens,
            None if usage is None else usage.completion_tokens,
            None,
            None,
            None,
            1,
            latency,
        )
        for answer in answers
    ]
