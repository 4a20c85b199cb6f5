"""What lies behind the routes of one simulated agent: its profile, conditions, counters and engine."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from aiohttp import web

from aurora_pool.testing.clock import wall_time
from aurora_pool.testing.exchange import DONE, EventStream, Exchange
from aurora_pool.testing.faults import Conditions
from aurora_pool.testing.generation import Choice, EngineLoop, Generation
from aurora_pool.testing.metrics import Counters
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.prompts import PromptTokens
from aurora_pool.testing.refusal import BUSY, ENGINE_DEAD, SHUT_DOWN, Refusal


class StreamWriter(Protocol):
    """What turns a generation's progress into the events of its route."""

    generation: Generation
    events: EventStream

    def finish(self) -> None:
        """Add what stands at the end of a stream that went well."""


class Backend:
    """What the routes of a server answer from. ``on_poison`` hears of a prompt that kills the server."""

    def __init__(
        self, profile: AgentProfile, *, chance: random.Random, time_scale: float, on_poison: Callable[[], None]
    ) -> None:
        self.profile = profile
        self.chance = chance
        self.time_scale = time_scale
        self.conditions = Conditions()
        self.counters = Counters(started_at=wall_time())
        self.engine_loop = EngineLoop(
            profile.new_engine(), time_scale=time_scale, finished=self._choice_finished, killed=on_poison
        )
        self.fingerprint = f"vllm-{profile.version}-51b1f1ee"
        self.requests_in_flight = 0
        self._numbers = 0

    @property
    def model(self) -> str:
        """The first name that the model is served under at the moment."""
        return self.names[0]

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the model is served under at the moment."""
        return self.profile.names if self.conditions.model is None else (self.conditions.model,)

    def check_model(self, name: object) -> None:
        """Refuse a model that is not served here; none at all means the one that is."""
        names = self.names
        if name is not None and name not in names:
            aliases = ", ".join(names)
            refusal = Refusal(404, f"The model `{name}` does not exist. Valid aliases: {aliases}.")
            refusal.param = "model"
            raise refusal

    def new_id(self, prefix: str, exchange: Exchange) -> str:
        """Name a reply: by the caller's own request id if it sent one."""
        own = exchange.request.headers.get("X-Request-Id") or exchange.body.get("request_id")
        return f"{prefix}-{own or f'{self.new_number():032x}'}"

    def new_number(self) -> int:
        """Count replies."""
        self._numbers += 1
        return self._numbers

    def count_instant(self, prompts: int, prompt_tokens: int, tokens: int) -> None:
        """Count prompts that were answered without the engine."""
        self.counters.prompts_answered += prompts
        self.counters.prompt_tokens += prompt_tokens
        self.counters.instant_tokens += tokens
        self.counters.finished["stop"] += prompts

    async def check_generates(self) -> None:
        """Refuse a request for generation if the server is in no state to take any."""
        if self.conditions.draining:
            await asyncio.sleep(0.003 / self.time_scale)
            raise Refusal(500, SHUT_DOWN)
        self.conditions.check_request(self.chance)

    async def generate(self, generation: Generation, *, interval: int | None) -> None:
        """Take a generation in, and wait until it has ended; raises :class:`Refusal` when the engine does."""
        self._admit(generation.choices)
        deadly = any(choice.kills for choice in generation.choices)
        if self.profile.instant and not self.engine_loop.engine.paused and not deadly:
            self._answer_at_once(generation)
            return
        self.engine_loop.start(generation, interval=interval)
        try:
            refusal = await generation.done
        finally:
            self.engine_loop.cancel(generation)
        if refusal is not None:
            raise refusal

    async def stream(self, exchange: Exchange, writer: StreamWriter, interval: int) -> web.StreamResponse:
        """Answer with events until the writer's generation has ended, well or not."""
        events = writer.events
        if self.conditions.stream_error is not None:
            writer.generation.breaks = (self.conditions.stream_error_after, self.conditions.stream_error)
        await events.begin()
        try:
            await self.generate(writer.generation, interval=interval)
        except Refusal as refusal:
            events.event(refusal.event())
            events.add(DONE)
        else:
            writer.finish()
        finally:
            events.stop()
        return await events.end()

    def check_prompt(self, prompt: PromptTokens) -> None:
        """Refuse a prompt that this server was told to reject."""
        if self.conditions.rejected:
            self.conditions.check_prompt(prompt.shown())

    def load_header(self, exchange: Exchange) -> dict[str, str]:
        """Tell the load in the ORCA header, to those who asked for it."""
        wanted = exchange.received.headers.get("endpoint-load-metrics-format", "").upper()
        if wanted not in ("TEXT", "JSON") or not self.profile.at_least(0, 11, 2):
            return {}
        engine = self.engine_loop.engine
        waiting, usage = float(engine.waiting), engine.cache.usage
        if wanted == "TEXT":
            value = f"named_metrics.num_requests_waiting={waiting}, named_metrics.kv_cache_usage_perc={usage}"
        else:
            named = {"num_requests_waiting": waiting, "kv_cache_usage_perc": usage}
            value = msgspec.json.encode({"named_metrics": named}).decode()
        return {"endpoint-load-metrics": f"{wanted} {value}"}

    def new_stream(self, exchange: Exchange) -> EventStream:
        """Make the stream of events that answers a request."""
        return EventStream(exchange.request, keep_alive=self.profile.sse_keep_alive / self.time_scale)

    async def stream_refusal(self, exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
        """Answer 200, then the error as an event, as vLLM does with what it finds late."""
        events = self.new_stream(exchange)
        await events.begin()
        events.event(refusal.event())
        events.add(DONE)
        return await events.end()

    def _admit(self, choices: Sequence[Choice]) -> None:
        conditions, engine = self.conditions, self.engine_loop.engine
        if conditions.engine_dead:
            raise Refusal(500, ENGINE_DEAD, late=True)
        limit = self.profile.max_queued
        if limit is not None and engine.running + engine.waiting + len(choices) > limit:
            self.counters.busy_refusals += len(choices)
            raise Refusal(503, BUSY, late=True)
        self.counters.prompt_tokens += sum(len(choice.prompt.ids) for choice in choices if choice.first_sample)
        if conditions.poisonous:
            for choice in choices:
                choice.kills = conditions.is_poison(choice.prompt.shown())

    def _answer_at_once(self, generation: Generation) -> None:
        for choice in generation.choices:
            tokens = len(choice.answer.token_ids)
            self.counters.instant_tokens += tokens
            generation.progressed(choice, tokens, choice.answer.finish_reason)
            self._choice_finished(choice)
        generation.release()

    def _choice_finished(self, choice: Choice) -> None:
        counters = self.counters
        reason = choice.finish_reason or choice.answer.finish_reason
        counters.finished[reason] += 1
        if choice.first_sample and reason != "abort":
            counters.prompts_answered += 1
        sequence = choice.sequence
        if sequence is not None and not math.isnan(sequence.started_at):
            counters.queue_time.observe(sequence.started_at - sequence.submitted_at)
            if not math.isnan(sequence.first_token_at):
                counters.first_token.observe(sequence.first_token_at - sequence.submitted_at)
            counters.whole_time.observe(self.engine_loop.now() - sequence.submitted_at)
