"""The engine at work for HTTP requests: a loop's timer drives it, and each request hears of its own tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from aurora_pool.testing import engine, tokenizer
from aurora_pool.testing.answers import Answer
from aurora_pool.testing.kv_cache import Key, block_keys
from aurora_pool.testing.prompts import PromptTokens
from aurora_pool.testing.refusal import Refusal


class Choice:
    """One answer of one request, and how much of it the client has seen."""

    __slots__ = (
        "answer",
        "echoed",
        "finish_reason",
        "first_sample",
        "generation",
        "index",
        "kills",
        "prompt",
        "role",
        "seen",
        "sequence",
    )

    def __init__(self, index: int, prompt: PromptTokens, answer: Answer, *, first_sample: bool = True) -> None:
        self.index = index
        self.prompt = prompt
        self.answer = answer
        self.first_sample = first_sample
        """Whether this is the first of its prompt's ``n`` answers."""
        self.kills = False
        """Whether computing its first token kills the server."""
        self.role = "assistant"
        self.echoed = ""
        """Of a chat: the text before the answer that the request asked for."""
        self.seen = 0
        """Tokens that were sent to the client already."""
        self.finish_reason: str | None = None
        self.sequence: engine.Sequence | None = None
        self.generation: Generation | None = None

    def text_until(self, tokens: int) -> str:
        """Tell the text of the first tokens, without a character that is not whole yet."""
        if tokens >= len(self.answer.token_ids):
            return self.answer.text
        text = tokenizer.decode_bytes(self.answer.token_ids[:tokens], skip_special=True).decode("utf-8", "ignore")
        return text if self.answer.text.startswith(text) else self.answer.text

    def abort(self, tokens: int) -> None:
        """End it with what it has."""
        text = self.text_until(tokens)
        self.answer = Answer(self.answer.token_ids[:tokens], text, "abort")


class ShownText:
    """How much of a choice's text a stream has shown; what may be the start of a stop string is held back."""

    __slots__ = ("_choice", "_hold_back", "_shown")

    def __init__(self, choice: Choice, stop: Sequence[str]) -> None:
        self._choice = choice
        self._hold_back = max((len(text) - 1 for text in stop), default=0)
        self._shown = 0

    def advance(self, tokens: int) -> tuple[int, int]:
        """Tell from where to where in the choice's text to show, now that it has ``tokens`` tokens."""
        start = self._shown
        if self._choice.finish_reason is not None:
            self._shown = len(self._choice.answer.text)
        else:
            self._shown = max(start, len(self._choice.text_until(tokens)) - self._hold_back)
        return start, self._shown


class Listener(Protocol):
    """What hears of a generation's progress while it happens."""

    def progressed(self, choice: Choice, tokens: int) -> None:
        """``choice`` has ``tokens`` tokens, and its ``finish_reason`` if it has ended."""

    def flush(self) -> None:
        """Pass on what has come: nothing more comes at this moment."""


class Generation:
    """All choices of one request. ``done`` resolves to None when the last has ended, or to what went wrong."""

    __slots__ = ("breaks", "choices", "done", "left", "listener")

    def __init__(self, choices: Sequence[Choice], listener: Listener | None = None) -> None:
        self.choices = choices
        self.listener = listener
        self.left = len(choices)
        self.breaks: tuple[int, Refusal] | None = None
        """After how many ended choices it fails, and with what; None if it does not."""
        self.done: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()
        for choice in choices:
            choice.generation = self

    def progressed(self, choice: Choice, tokens: int, finish_reason: str | None) -> None:
        """Take note of a choice's progress."""
        if finish_reason is not None:
            choice.finish_reason = finish_reason
            self.left -= 1
        if self.listener is not None:
            self.listener.progressed(choice, tokens)

    def release(self, refusal: Refusal | None = None) -> None:
        """Pass on what has come, and end if everything has come or ``refusal`` ends it."""
        if self.done.done():
            return
        if self.listener is not None:
            self.listener.flush()
        if self.breaks is not None and len(self.choices) - self.left >= self.breaks[0]:
            refusal = self.breaks[1]
        if not self.left or refusal is not None:
            self.done.set_result(refusal)


class EngineLoop:
    """An :class:`~aurora_pool.testing.engine.Engine` on the running loop's clock, ``time_scale`` times as fast.

    ``finished`` is called for each choice that ends, ``killed`` for one that kills the server.
    """

    def __init__(
        self,
        inner: engine.Engine,
        *,
        time_scale: float,
        finished: Callable[[Choice], None],
        killed: Callable[[], None],
    ) -> None:
        self.engine = inner
        self.active: dict[Generation, None] = {}
        self.open = True
        self._finished = finished
        self._killed = killed
        self._loop = asyncio.get_running_loop()
        self._scale = time_scale
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def now(self) -> float:
        """Tell the engine's time, in its own seconds."""
        return (self._loop.time() - self._began) * self._scale

    def start(self, generation: Generation, *, interval: int | None) -> None:
        """Submit every choice of a generation."""
        self.active[generation] = None
        now = self.now()
        for choice in generation.choices:
            length = 1 if choice.kills else len(choice.answer.token_ids)
            choice.sequence = engine.Sequence(
                length,
                prompt_tokens=len(choice.prompt.ids),
                keys=self._keys_of(choice.prompt),
                interval=interval,
                key=choice,
            )
            self.engine.submit(now, choice.sequence)
        self._arm()

    def cancel(self, generation: Generation) -> None:
        """Take out what has not ended: the client is gone."""
        if self.active.pop(generation, generation) is not None:
            return
        self._take_out(generation)
        self._arm()

    def abort_all(self) -> None:
        """End every choice with the text that it has, and ``finish_reason`` ``abort``."""
        for generation in list(self.active):
            for choice, tokens in self._take_out(generation):
                choice.abort(tokens)
                self._finished(choice)
                generation.progressed(choice, tokens, "abort")
            self._complete(generation)
        self._arm()

    def fail_all(self, refusal: Refusal) -> None:
        """End every generation with an error."""
        for generation in list(self.active):
            self._take_out(generation)
            self._complete(generation, refusal)
        self._arm()

    def pause(self) -> None:
        """Stop all progress."""
        self.engine.pause(self.now())
        self._arm()

    def resume(self) -> None:
        """Let progress go on."""
        self.engine.resume(self.now())
        self._arm()

    def set_speed(self, speed: float) -> None:
        """Run ``speed`` times as fast as the profile's step times say."""
        self.engine.set_speed(self.now(), speed)
        self._arm()

    def catch_up(self) -> None:
        """Bring the engine to the present, for whoever wants to look at it."""
        if self.open and not self.engine.paused:
            self._tick(self.now())

    def close(self) -> None:
        """Forget everything, and never wake again: ``open`` is False from now on."""
        self.open = False
        self.active.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _keys_of(self, prompt: PromptTokens) -> list[Key]:
        cache = self.engine.cache
        if not cache.prefix_caching or len(prompt.ids) < cache.block_size:
            return []
        return block_keys(prompt.ids, block_size=cache.block_size, salt=prompt.cache_salt)

    def _take_out(self, generation: Generation) -> list[tuple[Choice, int]]:
        now = self.now()
        return [
            (choice, self.engine.cancel(now, choice.sequence))
            for choice in generation.choices
            if choice.finish_reason is None and choice.sequence is not None
        ]

    def _complete(self, generation: Generation, refusal: Refusal | None = None) -> None:
        if refusal is not None or not generation.left:
            self.active.pop(generation, None)
        generation.release(refusal)

    def _arm(self) -> None:
        due = self.engine.next_event_time()
        if due is None or not self.open:
            return
        when = self._began + due / self._scale
        if self._timer is not None:
            # A timer that rings too early only looks again; most changes make events later.
            if self._timer_due <= when:
                return
            self._timer.cancel()
        self._timer_due = when  # what uvloop returns for what is due at once does not tell
        self._timer = self._loop.call_at(when, self._tick, due)

    def _tick(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        touched: dict[Generation, None] = {}
        # The loop may call a little before the time it was asked for, within its clock's resolution.
        for emission in self.engine.advance(max(self.now(), due) if not self.engine.paused else self.now()):
            choice: Choice = emission.sequence.key
            generation = choice.generation
            if generation is None or generation not in self.active:
                continue
            if choice.kills:
                self._killed()
            elif emission.finished:
                generation.progressed(choice, emission.tokens, choice.answer.finish_reason)
                self._finished(choice)
            else:
                generation.progressed(choice, emission.tokens, None)
            touched[generation] = None
        for generation in touched:
            self._complete(generation)
        self._arm()
