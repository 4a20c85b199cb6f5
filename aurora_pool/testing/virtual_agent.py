"""One server of a virtual fleet: an engine, the requests it holds, and what can happen to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from aurora_pool.errors import ConnectFailed, ConnectionLost, PoolError, ServerError
from aurora_pool.testing.engine import Sequence
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import ENGINE_DEAD
from aurora_pool.testing.virtual_network import Request, VirtualNetwork

DRAINING = "cannot schedule new futures after shutdown"
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."


class VirtualAgent:
    """One simulated server. The methods named like those of ``SimulatedAgent`` let the same happen to it."""

    def __init__(self, network: VirtualNetwork, index: int, profile: AgentProfile) -> None:
        self.network = network
        self.index = index
        self.profile = profile
        self.speed = profile.speed
        self.max_queued: int | None = None
        self.restarts_after = math.inf
        """Seconds after which something starts the server again that a poison prompt has killed."""
        self.condition: Literal["up", "hung", "asleep", "draining", "terminated", "dead"] = "up"
        self.requests: dict[Request, None] = {}
        self.most_held = 0
        self.prompts_received = 0
        self.deaths = 0
        self.tokens_lost = 0
        """Tokens generated for the client, of answers that were not whole when it died or began to hang."""
        self.engine = profile.new_engine()
        self._others: dict[Sequence, Callable[[bool], None]] = {}
        self._others_tokens = 0
        self._tokens_before = 0
        self._wake = math.inf
        network.note_capacity(self.speed)

    @property
    def tokens(self) -> int:
        """Tokens generated for the client, whether or not it got them."""
        others = self._others_tokens + sum(map(self.engine.generated, self._others))
        return self._tokens_before + self.engine.tokens - others

    def counters(self) -> tuple[int, int, int, int]:
        """What its engine counts now: tokens of all clients, sequences that run and that wait, preemptions."""
        engine = self.engine
        engine.catch_up(self.network.now)
        return engine.tokens, engine.running, engine.waiting, engine.preemptions

    # -- what a client does -------------------------------------------------------------------------------------

    def receive(self, request: Request) -> None:
        """Record a request that has travelled here."""
        now = self.network.now
        error = self._refusal(request)
        if error is not None:
            self.network.tell_failed(request, error)
            return
        self.prompts_received += len(request.prompts)
        self.requests[request] = None
        for slot, prompt in enumerate(request.prompts):
            sequence = Sequence(
                prompt.length,
                prompt_tokens=prompt.prompt_tokens,
                keys=prompt.keys,
                interval=self.network.interval,
                key=(request, slot),
            )
            request.sequences.append(sequence)
            self.engine.submit(now, sequence)
        self.most_held = max(self.most_held, self.engine.running + self.engine.waiting)
        self._reschedule()

    def close(self, request: Request) -> None:
        """Drop a request that nobody reads any more."""
        if request in self.requests:
            del self.requests[request]
            for sequence in request.sequences:
                self.engine.cancel(self.network.now, sequence)
            self._reschedule()

    def work_for_others(self, sequence: Sequence, ended: Callable[[bool], None]) -> bool:
        """Take a sequence that no request of the client holds; ``ended`` is told whether it came to its end.

        Returns False if it is refused.
        """
        if self.condition in ("dead", "terminated", "draining"):
            return False
        self._others[sequence] = ended
        self.engine.submit(self.network.now, sequence)
        self._reschedule()
        return True

    def stop_for_others(self, sequence: Sequence) -> None:
        """Let go of such a sequence; its ``ended`` is not called."""
        if self._others.pop(sequence, None) is not None:
            self._others_tokens += self.engine.cancel(self.network.now, sequence)
            self._reschedule()

    def _refusal(self, request: Request) -> PoolError | None:
        if self.condition in ("dead", "terminated"):
            return ConnectFailed("connection refused")
        if self.condition == "draining":
            return ServerError(500, DRAINING)
        if self.condition == "up" and any(prompt.bad for prompt in request.prompts):
            return ServerError(400, "The decoder prompt cannot be empty")
        held = self.engine.running + self.engine.waiting
        if self.max_queued is not None and held + len(request.prompts) > self.max_queued:
            return ServerError(503, BUSY)
        return None

    # -- what happens to it -------------------------------------------------------------------------------------

    def hang(self) -> None:
        """Accept everything and do nothing."""
        self._set("hung", paused=True)
        self._lose()

    def terminate(self) -> None:
        """Refuse connections, and leave what is in flight unanswered for ever."""
        self._set("terminated", paused=True)

    def drain(self, seconds: float = 5.0) -> None:
        """Go on with what runs, refuse new requests with a 500; after some seconds, terminate."""
        self._set("draining", paused=False)
        self.network.at(self.network.now + seconds, self.terminate)

    def die(self) -> None:
        """Cut all connections and refuse new ones."""
        self._stop(lambda: ConnectionLost("the connection broke", received=True))

    def fail_engine(self) -> None:
        """Answer everything in flight with the 500 of a dead engine, then be gone."""
        self._stop(lambda: ServerError(500, ENGINE_DEAD))

    def sleep(self) -> None:
        """Abort what runs, and keep new requests waiting without a word."""
        self._set("asleep", paused=True)
        for request in list(self.requests):
            del self.requests[request]
            slots = [slot for slot, s in enumerate(request.sequences) if s.generated < s.length]
            for sequence in request.sequences:
                self.engine.cancel(self.network.now, sequence)
            self.network.tell_aborted(request, slots)
        others, self._others = self._others, {}
        for sequence, ended in others.items():
            self._others_tokens += self.engine.cancel(self.network.now, sequence)
            ended(False)

    def slow(self, factor: float) -> None:
        """Take ``factor`` times as long for every step."""
        self.network.note_capacity(self.speed / factor - self.engine.speed)
        self.engine.set_speed(self.network.now, self.speed / factor)
        self._reschedule()

    def flap(self, *, up: float, down: float) -> None:
        """Die now, come back after ``down`` seconds, die after ``up`` more, and so on."""
        self.die()
        self.network.at(self.network.now + down, self.revive)
        self.network.at(self.network.now + down + up, lambda: self.flap(up=up, down=down))

    def revive(self) -> None:
        """Be healthy again: go on where it stopped, or as a new process if it was gone."""
        if self.condition in ("draining", "terminated"):
            self.die()
        self._set("up", paused=False)

    def _set(self, condition: Literal["up", "hung", "asleep", "draining", "terminated"], *, paused: bool) -> None:
        if self.condition == "dead" and condition != "up":
            return
        self.network.note_capacity(self._capacity(condition) - self._capacity(self.condition))
        self.condition = condition
        if paused:
            self.engine.pause(self.network.now)
        else:
            self.engine.resume(self.network.now)
        self._reschedule()

    def _stop(self, error: Callable[[], PoolError]) -> None:
        if self.condition == "dead":
            return
        self.network.note_capacity(-self._capacity(self.condition))
        self.condition = "dead"
        self.deaths += 1
        self.engine.advance(self.network.now)
        self._lose()
        self._tokens_before = self.tokens
        self.engine = self.profile.new_engine()
        self._others_tokens = 0
        self._wake = math.inf
        others, self._others = self._others, {}
        requests, self.requests = self.requests, {}
        for request in requests:
            self.network.tell_failed(request, error())
        for ended in others.values():
            ended(False)

    def _lose(self) -> None:
        self.engine.catch_up(self.network.now)
        for request in self.requests:
            for sequence in request.sequences:
                generated = self.engine.generated(sequence)
                self.tokens_lost += generated if generated < sequence.length else 0

    def _capacity(self, condition: str) -> float:
        return self.engine.speed if condition == "up" else 0.0

    # -- its own time -------------------------------------------------------------------------------------------

    def _reschedule(self) -> None:
        due = self.engine.next_event_time()
        if due is not None and due < self._wake:
            self._wake = due
            self.network.at(due, self._advance)

    def _advance(self) -> None:
        now = self.network.now
        if now < self._wake:
            return
        self._wake = math.inf
        mine = []
        killer = False
        for emission in self.engine.advance(now):
            if emission.sequence in self._others:
                if emission.finished:
                    ended = self._others.pop(emission.sequence)
                    self._others_tokens += emission.tokens
                    ended(True)
                continue
            mine.append(emission)
            request, slot = emission.sequence.key
            if emission.finished:
                request.unfinished -= 1
                if not request.unfinished:
                    self.requests.pop(request, None)
            killer = killer or request.prompts[slot].poison
        if mine:
            self.network.tell_emitted(self.index, mine)
        if killer:
            self.die()
            self.network.at(now + self.restarts_after, self.revive)
        else:
            self._reschedule()
