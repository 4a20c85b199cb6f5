"""Preflight: ask every agent of a hostfile what a job will need of it, and try each with a few short prompts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from aurora_pool.errors import PoolError, ServerError, TimedOut, TransportError
from aurora_pool.hostfile import AgentEndpoint
from aurora_pool.options import ConnectionOptions, Timeouts
from aurora_pool.runtime.transport import Transport
from aurora_pool.wire import completions, tokens
from aurora_pool.wire.answer import guarded
from aurora_pool.wire.metrics import METRICS_PATH
from aurora_pool.wire.model_list import MODELS_PATH, ServedModel, parse_models

BURST = 64
"""Short prompts that each agent gets at once."""
BURST_TOKENS = 8
AT_ONCE = 64
"""How many agents are asked at the same time."""
_PREFIX_CACHING = re.compile(rb'^vllm:cache_config_info\{[^}\n]*enable_prefix_caching="(\w+)"', re.MULTILINE)
_CONVERSATION = [{"role": "user", "content": "Which template is this?"}]


@dataclass(slots=True)
class AgentCheck:
    """What one agent has told and shown; None where it tells nothing. Times are seconds.

    ``asked`` is False for one that does not serve the model that is asked for. ``template`` stands for the tokens that
    its chat template makes of one conversation; ``clock`` is how far its clock is ahead of this machine's, to the
    second.
    """

    agent: str
    error: str = ""
    asked: bool = True
    models: tuple[str, ...] = ()
    model: str | None = None
    version: str | None = None
    max_model_len: int | None = None
    template: str | None = None
    prefix_caching: bool | None = None
    fingerprint: str | None = None
    clock: float | None = None
    latency: float | None = None
    prompts_per_second: float | None = None
    burst_error: str = ""

    @property
    def usable(self) -> bool:
        """Whether it has answered a prompt."""
        return not self.error


class _Version(msgspec.Struct):
    version: str


class _Completion(msgspec.Struct):
    choices: list[Any]
    system_fingerprint: str | None = None


_VERSION = msgspec.json.Decoder(_Version)
_COMPLETION = msgspec.json.Decoder(_Completion)


async def check_agents(
    endpoints: Sequence[AgentEndpoint], *, model: str | None = None, burst: int = BURST, within: float = 60.0
) -> list[AgentCheck]:
    """Check all agents, many at a time; each question may take ``within`` seconds.

    With ``model``, an agent that does not serve it gets no prompt and is not usable. Nothing is raised for what agents
    do.
    """
    transport = Transport(
        endpoints, connect_timeout=Timeouts().connect, connector_limit=None, connection=ConnectionOptions()
    )
    transport.open()
    turn = asyncio.Semaphore(AT_ONCE)

    async def check(index: int) -> AgentCheck:
        async with turn:
            return await _Examination(transport, index, str(endpoints[index]), within).run(model, burst)

    try:
        return list(await asyncio.gather(*map(check, range(len(endpoints)))))
    finally:
        await transport.close()


class _Examination:
    def __init__(self, transport: Transport, index: int, name: str, within: float) -> None:
        self._transport = transport
        self._index = index
        self._within = within
        self._found = AgentCheck(agent=name)

    async def run(self, model: str | None, burst: int) -> AgentCheck:
        found = self._found
        try:
            served = guarded(parse_models, await self._get(MODELS_PATH, keep_clock=True))
            found.models = tuple(each.id for each in served)
            found.asked = model is None or model in found.models
            chosen = _choose(model, served)
            found.model, found.max_model_len = chosen.id, chosen.max_model_len
            began = time.monotonic()
            reply: _Completion = guarded(_COMPLETION.decode, await self._complete(chosen.id, ["ping"], 1))
            found.latency = time.monotonic() - began
            found.fingerprint = reply.system_fingerprint
        except PoolError as error:
            found.error = str(error)
        if found.error or found.model is None:
            return found
        await self._ask_the_rest(found.model)
        if burst:
            await self._burst(found.model, burst)
        return found

    async def _ask_the_rest(self, model: str) -> None:
        found = self._found
        try:
            found.version = guarded(_VERSION.decode, await self._get("/version")).version
        except PoolError:
            found.version = None
        try:
            body = tokens.tokenize_messages(model, _CONVERSATION, None)
            ids = guarded(tokens.parse_tokens, await self._get(tokens.TOKENIZE_PATH, body))
            found.template = hashlib.blake2b(repr(ids).encode(), digest_size=4).hexdigest()
        except PoolError:
            found.template = None
        try:
            said = _PREFIX_CACHING.search(await self._get(METRICS_PATH))
            found.prefix_caching = None if said is None else said[1] == b"True"
        except PoolError:
            found.prefix_caching = None

    async def _burst(self, model: str, burst: int) -> None:
        prompts = [f"{number} is a number that" for number in range(burst)]
        began = time.monotonic()
        try:
            try:
                await self._complete(model, prompts, BURST_TOKENS)
            except ServerError as error:
                if error.status not in {400, 422}:
                    raise
                await asyncio.gather(*(self._complete(model, [prompt], BURST_TOKENS) for prompt in prompts))
        except PoolError as error:
            self._found.burst_error = str(error)
            return
        self._found.prompts_per_second = burst / max(1e-6, time.monotonic() - began)

    async def _complete(self, model: str, prompts: list[str], max_tokens: int) -> bytes:
        # One prompt goes as a text: not every engine takes lists.
        prompt: Any = prompts if len(prompts) > 1 else prompts[0]
        body = completions.encode_request(model, prompt, {"temperature": 0}, max_tokens)
        return await self._get(completions.PATH, body)

    async def _get(self, path: str, body: bytes | None = None, *, keep_clock: bool = False) -> bytes:
        asked = time.time()
        try:
            async with asyncio.timeout(self._within):
                with await self._transport.request(self._index, path, body) as reply:
                    if reply.status != 200:
                        raise await reply.error()
                    content = reply.without_secret(await reply.read())
        except TimeoutError as error:
            raise TimedOut(f"no whole reply to {path} within {self._within:g} s") from error
        if keep_clock and "Date" in reply.headers:
            with contextlib.suppress(ValueError, OverflowError):  # what is no date tells nothing
                told = parsedate_to_datetime(reply.headers["Date"]).timestamp()
                # The header counts whole seconds, and the reply was made between asking and now.
                earliest, latest = told - time.time(), told + 1.0 - asked
                self._found.clock = max(earliest, 0.0) + min(latest, 0.0)
        return content


def _choose(wanted: str | None, served: Sequence[ServedModel]) -> ServedModel:
    if wanted is None:
        return next((model for model in served if model.parent is None), served[0])
    for model in served:
        if model.id == wanted:
            return model
    raise TransportError(f"does not serve {wanted!r} but {', '.join(repr(model.id) for model in served)}")
