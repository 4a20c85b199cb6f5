"""One simulated agent: a server on a port of its own, and everything that can happen to it."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.testing.exchange import ReceivedRequest
from aurora_pool.testing.faults import Conditions, Fault, Garble
from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.refusal import ENGINE_DEAD, Refusal
from aurora_pool.testing.server import AgentServer

__all__ = ["SimulatedAgent"]

_BACKLOG = 2048


class SimulatedAgent:
    """A simulated ``vllm serve``, made and started by :class:`~aurora_pool.testing.fleet.SimulatedFleet`.

    The methods below let something happen to it, at once, while it serves; each is undone by :meth:`revive`. Times are
    simulated seconds.

    >>> async def example(fleet):
    ...     fleet.agents[0].slow(5)
    ...     fleet.agents[1].die()
    ...     assert not fleet.agents[1].listening

    ``requests`` holds what it received, if the fleet records that.
    """

    def __init__(
        self,
        index: int,
        profile: AgentProfile,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tags: Mapping[str, str] | None = None,
        script: Iterable[Fault] = (),
        seed: int = 0,
        time_scale: float = 1.0,
        record: bool = True,
    ) -> None:
        self.index = index
        self.profile = profile
        self.requests: list[ReceivedRequest] = []
        self.prompts_received = 0
        self._script = list(script)
        self._chance = random.Random(f"{seed}/{index}")
        self._scale = time_scale
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._repairs: list[asyncio.TimerHandle] = []
        self._accepting: set[asyncio.Task[Any]] = set()
        self._socket = _bound(host, port)
        self._ended: list[AgentServer] = []
        self._answered_before = 0
        self.listening = False
        """Whether new connections are taken; if not, they are refused."""
        self.endpoint = AgentEndpoint(host, self._socket.getsockname()[1], dict(tags or {}), path=profile.root_path)
        self.server = self._new_server()

    @property
    def prompts_answered(self) -> int:
        """How many prompts have been answered whole, by this process and those before it."""
        return self._answered_before + self.server.counters.prompts_answered

    def start(self) -> None:
        """Begin to listen, and start the fault script."""
        self._listen()
        for fault in self._script:
            if fault.at is not None:
                self._repairs.append(self._loop.call_later(fault.at / self._scale, self._apply, fault))

    async def close(self) -> None:
        """Stop for good: cut all connections, free the port, forget all timers."""
        for timer in (*self._timers, *self._repairs):
            timer.cancel()
        self._stop_listening()
        self._socket.close()
        if self._accepting:
            await asyncio.wait(self._accepting)
        for server in (*self._ended, self.server):
            await server.close()

    def refuse(self) -> None:
        """Refuse new connections; those that are open work on."""
        self._stop_listening()

    def hang(self) -> None:
        """Accept everything, answer nothing, make no progress, as a stopped process does (SIGSTOP)."""
        self.server.hang()

    def terminate(self) -> None:
        """Do what SIGTERM does to vLLM: refuse connections, close idle ones, send nothing more on open requests."""
        self._stop_listening()
        self.server.hang()
        self.server.cut_connections(idle_only=True)

    def die(self) -> None:
        """Cut all connections in the middle of whatever they carry, and refuse new ones (SIGKILL)."""
        self._stop_listening()
        self.server.engine_loop.close()
        self.server.cut_connections()

    def fail_engine(self, *, exits_after: float = 0.4) -> None:
        """Let the engine die: open requests get a 500 or an error event, then the server exits."""
        self.server.conditions.engine_dead = True
        self.server.engine_loop.fail_all(Refusal(500, ENGINE_DEAD))
        self._later(exits_after, self.die)

    def fail(
        self,
        status: int = 500,
        *,
        rate: float = 1.0,
        message: str = "Internal server error",
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer requests for generation with an error status, all of them or a share (0 to 1)."""
        self.server.conditions.failure = Refusal(status, message, kind=kind)
        self.server.conditions.headers = dict(headers or {})
        self.server.conditions.failure_rate = rate

    def tell(self, headers: Mapping[str, str]) -> None:
        """Add headers to replies that are not streamed, such as those that tell what is left of a rate limit."""
        self.server.conditions.headers = dict(headers)

    def drain(self, seconds: float = 5.0) -> None:
        """Shut down as with ``--shutdown-timeout``.

        New requests fail at once with a 500, running ones go on, ``/health`` stays 200; ``seconds`` later it is as
        after :meth:`terminate`.
        """
        self.server.conditions.draining = True
        self._later(seconds, self.terminate)

    def sleep(self) -> None:
        """Abort what is running (200, partial text, ``abort``), and keep new requests waiting without a word."""
        self.server.conditions.asleep = True
        self.pause()

    def pause(self) -> None:
        """Do as in :meth:`sleep`, but without the sign of it in ``/metrics``."""
        self.server.engine_loop.abort_all()
        self.server.engine_loop.pause()

    def slow(self, factor: float) -> None:
        """Take ``factor`` times as long for every step; below 1 it is faster than its profile."""
        self.server.engine_loop.set_speed(self.profile.speed / factor)

    def flap(self, *, up: float, down: float) -> None:
        """Die now, come back after ``down`` seconds, die after ``up`` more, and so on until :meth:`revive`."""
        self.die()
        self._later(down, self._flap_up, up, down)

    def reject(self, pattern: str, message: str = "This prompt is not acceptable") -> None:
        """Answer 400 to a request in which any prompt matches a regular expression."""
        self.server.conditions.rejected.append((re.compile(pattern), message))

    def poison(self, pattern: str) -> None:
        """Die of any prompt that matches a regular expression, a moment after it gets its slot."""
        self.server.conditions.poisonous.append(re.compile(pattern))

    def break_streams(self, *, after: int = 0, status: int = 500, message: str = "Internal server error") -> None:
        """End every streamed request with an error event and ``[DONE]`` once ``after`` of its choices have ended."""
        self.server.conditions.stream_error = Refusal(status, message)
        self.server.conditions.stream_error_after = after

    def garble(self, kind: Garble = "plain") -> None:
        """Answer with status 200 and something else than was asked for."""
        self.server.conditions.garble = kind

    def serve_model(self, name: str) -> None:
        """Serve another model, and only that."""
        self.server.conditions.model = name

    def revive(self) -> None:
        """Be healthy again.

        A process that is still there (hung, asleep, slow, failing, refusing) goes on where it was; one that has died,
        was terminated or drains is replaced by a new one on the same port, and its last connections are cut.
        """
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        server = self.server
        gone = not self.listening and (server.conditions.hung or not server.engine_loop.open)
        if gone or server.conditions.draining or server.conditions.engine_dead:
            self.die()
            self._answered_before += server.counters.prompts_answered
            self._ended = [ended for ended in (*self._ended, server) if ended.is_busy]
            self.server = self._new_server()
        else:
            server.revive()
            server.engine_loop.set_speed(self.profile.speed)
            server.conditions = Conditions()
        self._listen()

    def restart(self, profile: AgentProfile) -> None:
        """Be replaced by a new process with another profile (another version or model) on the same port."""
        self.profile = profile
        self.die()
        self.revive()

    def _later(self, seconds: float, callback: Any, *arguments: Any) -> None:
        self._timers.append(self._loop.call_later(seconds / self._scale, callback, *arguments))

    def _flap_up(self, up: float, down: float) -> None:
        self.revive()
        self._later(up, lambda: self.flap(up=up, down=down))

    def _apply(self, fault: Fault) -> None:
        getattr(self, fault.action)(**fault.arguments)
        if fault.lasting is not None:
            self._repairs.append(self._loop.call_later(fault.lasting / self._scale, self.revive))

    def _received(self, received: ReceivedRequest) -> None:
        self.prompts_received += received.prompts
        if self._record:
            self.requests.append(received)
        due = [fault for fault in self._script if self._is_due(fault, received)]
        for fault in due:
            self._script.remove(fault)
            self._apply(fault)

    def _is_due(self, fault: Fault, received: ReceivedRequest) -> bool:
        if fault.after_prompts is not None:
            return self.prompts_received >= fault.after_prompts
        if fault.on_prompt is not None:
            return any(re.search(fault.on_prompt, text) for text in _texts(received.body))
        return False

    def _new_server(self) -> AgentServer:
        return AgentServer(
            self.profile,
            chance=self._chance,
            time_scale=self._scale,
            on_request=self._received,
            on_poison=lambda: self._later(0.05, self.die),
        )

    def _listen(self) -> None:
        if not self.listening:
            self._socket.listen(_BACKLOG)
            self._loop.add_reader(self._socket, self._accept)
            self.listening = True

    def _stop_listening(self) -> None:
        if self.listening:
            self._loop.remove_reader(self._socket)
            # A bound socket that does not listen refuses connections and keeps the port from anyone else.
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # on Linux it stays bound, and may listen again
            except OSError:
                host, port = self._socket.getsockname()[:2]
                self._socket.close()
                self._socket = _bound(host, port)
            self.listening = False

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._welcome(self.server, connection))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _welcome(self, server: AgentServer, connection: socket.socket) -> None:
        transport, _ = await self._loop.connect_accepted_socket(server.http, connection)
        if not server.engine_loop.open:
            transport.abort()  # the server died between the kernel's handshake and its own


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    if port:
        return listener
    # Linux keeps a port for a socket that does not listen any more only where it was asked for by its number.
    with listener:
        return _bound(host, listener.getsockname()[1])


def _texts(body: Any) -> Iterator[str]:
    """Find every text in the prompts or messages of a request."""
    if isinstance(body, str):
        yield body
    elif isinstance(body, dict):
        for name in ("prompt", "messages", "content", "text", "input"):
            yield from _texts(body.get(name))
    elif isinstance(body, list):
        for item in body:
            if not isinstance(item, int):
                yield from _texts(item)
