"""What an answer changes: its prompt ends, its credit comes back, and its agent's and caller's figures are updated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Generic, NamedTuple, Protocol, TypeVar

from aurora_pool.policy.agent import AgentState
from aurora_pool.policy.callers import Caller
from aurora_pool.policy.ledger import Ledger
from aurora_pool.policy.stall import StallDetector
from aurora_pool.policy.work import InFlightRequest, Lot, WorkItem


class PromptAnswer(Protocol):
    """What the dispatcher needs of an answer: whether its first token had been reported before."""

    started: bool


AnyAnswer = TypeVar("AnyAnswer", bound=PromptAnswer)


class Results(NamedTuple, Generic[AnyAnswer]):
    """Answers that are the results of their prompts, and the indices of these, in the same order.

    ``items`` are those of the prompts; none where the prompts had none, which were sent just once, in this request.
    """

    indices: Sequence[int]
    answers: Sequence[AnyAnswer]
    items: Sequence[WorkItem]


class Answers:
    """Takes answers, one by one or many at a time."""

    def __init__(self, ledger: Ledger, stall: StallDetector) -> None:
        self._ledger = ledger
        self._stall = stall

    def one(self, request: InFlightRequest, slot: int, tokens: int, now: float, *, started: bool) -> bool:
        """Record an answer; return whether it is its prompt's first, and so its result.

        ``slot`` is the prompt's place in the request, ``started`` whether its first token had been reported before.
        ``tokens`` is 0 where the server does not report it.
        """
        if request.items[slot] is None:
            return False
        ledger = self._ledger
        agent = ledger.agents[request.agent]
        self.reply_began(request, agent, now)
        agent.answered(tokens, request.sent_at, now)
        if agent.checking:
            self._stall.saw_activity(agent)
        if tokens:
            ledger.lengths.add((tokens,))
        ledger.answered += 1
        item = ledger.release(request, slot, started=started)
        item.queue.caller.answered(tokens, 1)
        ledger.turns.fell(item.queue.caller)
        first = not item.done
        if first:
            ledger.complete(item, now)
        else:
            ledger.wasted_tokens += tokens
            agent.discard_duplicate(tokens)
        if not request.live and request.open:
            ledger.close(request, now)
        return first

    def together(
        self,
        request: InFlightRequest,
        answers: Sequence[AnyAnswer],
        slots: Sequence[int],
        tokens: Sequence[int],
        now: float,
    ) -> Results[AnyAnswer]:
        """Record answers that came at the same moment; return those that are their prompts' first.

        ``slots`` and ``tokens`` have each one's place in the request and length: 0 where the server does not report it.
        The result is that of :meth:`one` for each, at a fraction of the cost where a reply brings many.
        """
        if request.lot is not None:
            return self._of_lot(request, request.lot, answers, slots, tokens, now)
        items = request.items
        results: list[tuple[WorkItem, AnyAnswer]] = []
        ended: list[AnyAnswer] = []
        lengths: list[int] = []
        entangled: list[tuple[WorkItem, AnyAnswer, int, int]] = []
        starts = 0.0
        for answer, slot, length in zip(answers, slots, tokens, strict=True):
            item = items[slot]
            if item is None:
                continue
            if item.done or item.holders > 1 or item.request is not request:
                entangled.append((item, answer, slot, length))
                continue
            items[slot] = item.request = None
            item.holders = 0
            item.done = True
            if answer.started:
                starts += item.started_at
            results.append((item, answer))
            ended.append(answer)
            lengths.append(length)
        results += [
            (item, answer)
            for item, answer, slot, length in entangled
            if self.one(request, slot, length, now, started=answer.started)
        ]
        if ended:
            self._ended_together(request, results[0][0].queue.caller, ended, lengths, starts, now)
        return Results([item.index for item, _ in results], [a for _, a in results], [item for item, _ in results])

    def _of_lot(
        self,
        request: InFlightRequest,
        lot: Lot,
        answers: Sequence[AnyAnswer],
        slots: Sequence[int],
        tokens: Sequence[int],
        now: float,
    ) -> Results[AnyAnswer]:
        """The same for prompts that have no items: each is its agent's alone, and this its first answer."""
        if len(answers) < request.size or request.open < request.size:
            kept = [request.take_off(slot) for slot in slots]
            answers, tokens = list(compress(answers, kept)), list(compress(tokens, kept))
            slots = list(compress(slots, kept))
        if not answers:
            return Results([], [], [])
        indices = lot.indices if slots == range(request.size) else [lot.indices[slot] for slot in slots]
        starts = 0.0
        if request.started:
            starts = sum([request.started_at(s) for s, answer in zip(slots, answers, strict=True) if answer.started])
        self._ended_together(request, lot.queue.caller, answers, tokens, starts, now)
        return Results(indices, answers, [])

    def _ended_together(
        self,
        request: InFlightRequest,
        caller: Caller,
        answers: Sequence[AnyAnswer],
        tokens: Sequence[int],
        starts: float,
        now: float,
    ) -> None:
        """Count answers that ended their prompts; ``starts`` is the sum of the times of their first tokens."""
        ledger = self._ledger
        agent = ledger.agents[request.agent]
        started: list[int] = []
        if request.started:
            started = [length for length, answer in zip(tokens, answers, strict=True) if answer.started]
        total = sum(tokens)
        ledger.lengths.add([length for length in tokens if length] if 0 in tokens else tokens)
        ledger.release_done(request, caller, len(answers), len(started))
        caller.answered(total, len(answers))
        ledger.turns.fell(caller)
        self.reply_began(request, agent, now)
        if started:
            count = len(started)
            agent.flow.decoded(sum(started) - count, count * now - starts, count, agent.running, now)
        agent.answered(total, request.sent_at, now, len(answers))
        if agent.checking:
            self._stall.saw_activity(agent)
        if not request.live and request.open:
            ledger.close(request, now)

    def reply_began(self, request: InFlightRequest, agent: AgentState, now: float) -> None:
        """Record that a token or an answer of one of its prompts came, if it is the first."""
        if not request.reply_begun:
            request.reply_begun = True
            if request.sent_at is not None:
                agent.flow.first_byte(now - request.sent_at, now)
