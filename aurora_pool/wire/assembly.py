"""Put the pieces of a reply together: choices as they come, whole or in events, to one answer per prompt.

The choice of sample ``k`` of prompt ``p`` has the index ``p x n + k``. A server that gets that wrong mixes texts, so
nothing is taken for granted: an index out of range, text or an end after a choice's end are a :class:`BadReply`. Some
servers call every choice of a stream 0, and one that counts from 1 would be found out last; so ends are held back until
the first prompt of a list and another one have shown something.
"""

from __future__ import annotations

from collections.abc import Sequence

from aurora_pool.errors import BadReply
from aurora_pool.messages import Logprobs, Usage
from aurora_pool.wire.answer import Answer, Finished, finished, finished_texts, merge_samples
from aurora_pool.wire.bounds import UNBOUNDED, Bounds

ENDED = Answer(-1, "")
"""Stands for a choice whose end has come."""

_SAME_REASON = {"eos": "stop", "eos_token": "stop", "function_call": "tool_calls"}


class Assembly:
    """The answers to a number of prompts with ``n`` samples each, in the making."""

    __slots__ = (
        "_bounds",
        "_characters",
        "_choices",
        "_doubtful",
        "_finished",
        "_first_begun",
        "_n",
        "_others_begun",
        "_parts",
        "_pieces",
        "_reasons_given",
        "_samples",
        "_started",
        "_thoughts",
    )  # fmt: skip

    def __init__(self, prompts: int, n: int = 1, bounds: Bounds = UNBOUNDED) -> None:
        self._n = n
        self._choices = prompts * n
        self._bounds = bounds
        self._parts: dict[int, Answer] = {}
        self._pieces: dict[int, list[str]] = {}
        """The texts of choices with more than two pieces: to add them up one by one would be quadratic."""
        self._thoughts: dict[int, list[str]] = {}
        """The same of what models think."""
        self._samples: dict[int, list[Answer]] = {}
        self._characters = 0
        self._started: list[int] = []
        self._finished: list[Answer] = []
        self._doubtful = prompts > 1
        """Whether the indices may be wrong, for all that has been seen of them."""
        self._first_begun = self._others_begun = False
        self._reasons_given = False

    def has_begun(self, index: int) -> bool:
        """Whether a part of this choice has come."""
        return index in self._parts

    def add(self, choices: Sequence[Answer], usage: Usage | None) -> None:
        """Take the choices of one event; the usage is the choice's own if there is only one."""
        parts = self._parts
        for choice in choices:
            index = choice.slot
            part = parts.get(index)
            if choice.wire_logprobs is not None:
                choice.logprobs = choice.wire_logprobs.message()
            if part is None:
                self._begin(choice)
                part = choice
            elif part is ENDED:
                if choice.text or choice.finish_reason:
                    self._doubtful = True
                    raise BadReply(f"the choice with the index {index} goes on after its end")
                continue
            else:
                self._extend(part, choice)
            if usage is not None and len(choices) == 1:
                part.usage = usage
            if choice.finish_reason:
                self._end(part)

    def check_size(self) -> None:
        """Refuse to gather more than could have been asked for."""
        if self._characters > self._bounds.characters:
            raise BadReply(f"texts of more than {self._bounds.characters} characters, far more than was asked for")

    def done(self) -> None:
        """Take the proper end of a stream. A server that tells no finish reasons at all has finished what it began."""
        if self._parts and not self._reasons_given:
            for part in [part for part in self._parts.values() if part is not ENDED]:
                part.finish_reason = "stop"
                self._end(part)

    def take(self) -> tuple[list[int], list[Answer]]:
        """Return which prompts have shown their first token since the last call, and what has finished."""
        started, self._started = self._started, []
        if self._doubtful or not self._finished:
            return started, []
        finished, self._finished = self._finished, []
        return started, finished

    def whole(self, answers: list[Answer], usage: Usage | None) -> Finished:
        """Take all choices at once; the usage is of all of them together."""
        if len(answers) != self._choices:
            raise BadReply(f"expected {self._choices} choices, got {len(answers)}")
        slots: Sequence[int] = [answer.slot for answer in answers]
        if slots == list(range(self._choices)):
            slots = range(self._choices)
        else:
            self._check_indices(slots)
        # One field of all costs less to look at than all fields of each, and nearly always there is nothing to do.
        reasons = {answer.finish_reason for answer in answers}
        told = any(reasons)
        if not told or not reasons.isdisjoint(_SAME_REASON):
            for answer in answers:
                reason = answer.finish_reason or ""
                answer.finish_reason = _SAME_REASON.get(reason, answer.finish_reason) if told else "stop"
            reasons = {answer.finish_reason for answer in answers}
        for answer, logprobs in [(a, a.wire_logprobs) for a in answers if a.wire_logprobs is not None]:
            answer.logprobs = logprobs.message()
        lengths = [len(answer.text) for answer in answers]
        if max(lengths) > self._bounds.longest:
            self._too_long(max(answers, key=lambda answer: len(answer.text)))
        if self._n > 1:
            answers = [merged for answer in answers for merged in self._sample(answer)]
        if len(answers) == 1 and usage is not None and usage.completion_tokens <= self._n * self._bounds.tokens:
            answers[0].usage = usage
        return finished(answers) if self._n > 1 else finished_texts(answers, slots, reasons, lengths)

    def _check_indices(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._check_index(index)
        if len(set(indices)) < len(indices):
            raise BadReply("two choices have the same index")

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self._choices:
            self._doubtful = True
            raise BadReply(f"a choice has the index {index}; expected 0 to {self._choices - 1}")

    def _begin(self, choice: Answer) -> None:
        """Take the first piece of a choice."""
        index = choice.slot
        if not 0 <= index < self._choices:
            self._check_index(index)
        self._parts[index] = choice
        self._characters += len(choice.text)
        if choice.reasoning is not None:
            self._characters += len(choice.reasoning)
        if self._doubtful:
            if index >= self._n:
                self._others_begun = True
            self._first_begun = self._first_begun or index < self._n
            self._doubtful = not (self._first_begun and self._others_begun)
        if not choice.finish_reason and index % self._n == 0:
            self._started.append(index // self._n)

    def _extend(self, part: Answer, choice: Answer) -> None:
        """Add the next piece of a choice to what there is of it."""
        part.started = True
        reason = part.finish_reason = choice.finish_reason
        text = choice.text
        if reason and part.slot not in self._pieces:
            part.text += text
        elif text:
            self._characters += len(text)
            pieces = self._pieces.get(part.slot)
            if pieces is None:
                self._pieces[part.slot] = [part.text, text]
            else:
                pieces.append(text)
        if choice.logprobs is not None:
            part.logprobs = _add_logprobs(part.logprobs, choice.logprobs)
        if choice.token_ids is not None:
            if part.token_ids is None:
                part.token_ids = choice.token_ids
            else:
                part.token_ids += choice.token_ids
        if choice.reasoning is not None:
            self._characters += len(choice.reasoning)
            thoughts = self._thoughts.get(part.slot)
            if thoughts is None:
                self._thoughts[part.slot] = [part.reasoning or "", choice.reasoning]
            else:
                thoughts.append(choice.reasoning)
        if choice.tool_calls is not None:
            part.tool_calls = choice.tool_calls

    def _end(self, part: Answer) -> None:
        """Record that a choice is whole."""
        self._reasons_given = True
        index = part.slot
        self._parts[index] = ENDED
        pieces = self._pieces.pop(index, None)
        if pieces is not None:
            part.text = "".join(pieces)
        thoughts = self._thoughts.pop(index, None)
        if thoughts is not None:
            part.reasoning = "".join(thoughts)
        if part.finish_reason in _SAME_REASON:
            part.finish_reason = _SAME_REASON[part.finish_reason]
        bounds = self._bounds
        if len(part.text) > bounds.longest:
            self._too_long(part)
        if part.usage is not None and part.usage.completion_tokens > bounds.tokens:
            part.usage = None
        if self._n == 1:
            self._finished.append(part)
        else:
            self._finished += self._sample(part)

    def _too_long(self, answer: Answer) -> None:
        raise BadReply(f"a text of {len(answer.text)} characters for at most {self._bounds.tokens} tokens")

    def _sample(self, part: Answer) -> Sequence[Answer]:
        slot = part.slot // self._n
        siblings = self._samples.setdefault(slot, [])
        siblings.append(part)
        if len(siblings) < self._n:
            return ()
        del self._samples[slot]
        siblings.sort(key=lambda sibling: sibling.slot)
        merged = merge_samples(slot, siblings)
        merged.started = siblings[0].started
        return (merged,)


def _add_logprobs(first: Logprobs | None, second: Logprobs) -> Logprobs:
    """Put the log-probabilities of two successive parts together, in the lists of the first."""
    if first is None:
        return second
    first.tokens.extend(second.tokens)
    first.token_logprobs.extend(second.token_logprobs)
    first.top.extend(second.top)
    return first
