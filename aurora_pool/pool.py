"""The pool for text: many ``vllm serve`` endpoints as one async client."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aurora_pool.agent_pool import AgentPool, CallOptions, check_least, new_driver
from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.hostfile import AgentEndpoint, parse_hostfile
from aurora_pool.messages import AnyPrompt, Prompt, Response, Sampling
from aurora_pool.options import Observer, Timeouts
from aurora_pool.policy.scheduler import Balance
from aurora_pool.policy.work import PromptQueue
from aurora_pool.prompts.length import TooLong
from aurora_pool.prompts.planner import Planner
from aurora_pool.prompts.settings import PromptFormat, PromptHandling
from aurora_pool.runtime.call import Call
from aurora_pool.runtime.discovery import Serving
from aurora_pool.runtime.request_kinds import PlanPrompts
from aurora_pool.wire import chat, completions

if TYPE_CHECKING:
    import openai


class VLLMPool(AgentPool):
    """Many ``vllm serve`` endpoints as one async client for text.

    >>> async with VLLMPool(parse_hostfile("driver.hostfile")) as pool:  # doctest: +SKIP
    ...     responses = await pool.send_all_batched(["Name a colour.", "Name a tree."], max_tokens=16)

    - ``model``: the name to ask for; None takes the one model that the fleet serves.
    - ``max_tokens``: how many tokens to generate at most; None fits it to what the context leaves each prompt.
      ``max_tokens_aggregation`` is the same for reduce steps.
    - ``model_max_context``: the context length in tokens; None takes what ``/v1/models`` says. ``buffer`` tokens of it
      are left free, because prompt lengths are estimates.
    - ``use_batch``: send lists of prompts as one ``/v1/completions`` request; False sends one chat request per prompt.
    - ``prompt_format``: ``"chat"`` puts text into the model's chat template, so that a list request carries exactly the
      tokens that a chat request would; ``"raw"`` sends it as it is; ``"auto"`` is chat where the model has a template.
      ``system_prompt`` is put before it in the template. Token ids are always sent as they are.
    - ``on_too_long``: what becomes of a prompt longer than the context: ``"error"`` is a failed response,
      ``"truncate"`` keeps its end, ``"split"`` answers it in parts and joins the answers.
    - ``concurrency``: at most so many HTTP requests at a time; ``connector_limit``: at most so many connections.
    - ``timeout``: seconds that a prompt may take from its first sending; None sets no limit.
    - ``sampling``: how prompts are answered that have none of their own and whose call has none.
    - ``balance``: ``"adaptive"``, or ``"strict"``: prompt ``i`` on agent ``i % size`` unless that agent fails.
    - ``stream``: stream list requests, so that answers come one by one; False waits for whole lists.

    Raises :class:`ConfigError` for arguments that make no sense and :class:`NoAgentsError` if there is no endpoint.
    """

    def __init__(
        self,
        endpoints: Sequence[AgentEndpoint],
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        max_tokens_aggregation: int | None = None,
        model_max_context: int | None = None,
        buffer: int = 64,
        prompt_format: PromptFormat = "auto",
        system_prompt: str | None = None,
        on_too_long: TooLong = "error",
        use_batch: bool = True,
        concurrency: int | None = None,
        connector_limit: int | None = None,
        timeout: float | None = None,
        sampling: Sampling | None = None,
        balance: Balance = "adaptive",
        stream: bool = True,
        timeouts: Timeouts | None = None,
        observer: Observer | None = None,
        seed: int | None = None,
    ) -> None:
        check_least(1, max_tokens=max_tokens, max_tokens_aggregation=max_tokens_aggregation)
        check_least(2, model_max_context=model_max_context)
        check_least(0, buffer=buffer)
        driver = new_driver(
            endpoints,
            balance=balance,
            stream=stream,
            timeout=timeout,
            concurrency=concurrency,
            connector_limit=connector_limit,
            timeouts=timeouts,
            observer=observer,
            seed=seed,
        )
        super().__init__(endpoints, driver)
        self.max_tokens = max_tokens
        self.max_tokens_aggregation = max_tokens_aggregation
        self.buffer = buffer
        self.timeout = timeout
        self.supports_batch = use_batch
        self._sampling = sampling or Sampling()
        self._serving = Serving(model, model_max_context)
        self._prompting = PromptHandling(
            driver, prompt_format=prompt_format, system_prompt=system_prompt, on_too_long=on_too_long, buffer=buffer
        )

    @classmethod
    def from_hostfile(cls, path: str | Path, **options: Any) -> Self:
        """Make a pool of the agents in a hostfile; the options are the constructor's. Raises :class:`HostfileError`."""
        return cls(parse_hostfile(path), **options)

    @property
    def model(self) -> str | None:
        """The model's name; None while it has not been found out."""
        return self._serving.model

    @property
    def max_context(self) -> int | None:
        """The context length in tokens, the least among the agents; None while nobody has told."""
        return min((context for context, _ in self._serving.contexts(self._members)), default=None)

    def estimate_tokens(self, text: str) -> int:
        """About how many tokens a text has, on the long side; calibrated by what the servers have counted so far."""
        return self._prompting.estimate.of(text)

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text as the served model's tokenizer has them; never with the chat template around it.

        Raises :class:`TransportError` or :class:`ServerError` if no agent can tell.

        >>> await pool.tokenize(" Paris", add_special_tokens=False)  # doctest: +SKIP
        [7042]
        """
        await self.start()
        return await self._prompting.tokenizer.encode(self.model or "", text, add_special_tokens=add_special_tokens)

    async def post(self, agent_index: int, prompt: AnyPrompt, max_tokens: int | None = None) -> Response:
        """Ask one very agent by a chat request. If it is out of service, the response says so.

        Raises :class:`ConfigError` for an index that does not exist.
        """
        options = CallOptions(max_tokens, None, batched=False)
        (response,) = await self._gather(self._pinned(agent_index), [prompt], options)
        return response

    async def post_batch(
        self, agent_index: int, prompts: Iterable[AnyPrompt], max_tokens: int | None = None
    ) -> list[Response]:
        """Send prompts to one very agent in one list request (of at most 1,024 prompts; more take more requests)."""
        options = CallOptions(max_tokens, None, self.supports_batch)
        return await self._gather(self._pinned(agent_index), prompts, options)

    async def broadcast_prompt(self, prompt: AnyPrompt, max_tokens: int | None = None) -> list[Response]:
        """Ask every agent the same; return one response per agent, in the order of :attr:`endpoints`."""
        if not self._members:
            raise NoAgentsError("this pool has no agents")
        return await asyncio.gather(*(self.post(index, prompt, max_tokens) for index in range(self.size)))

    def openai_client(self) -> openai.AsyncOpenAI:
        """An ``openai.AsyncOpenAI`` whose requests are balanced over this pool: see :mod:`aurora_pool.contrib`."""
        from aurora_pool.contrib.openai import make_client  # noqa: PLC0415 (importing openai takes most of a second)

        return make_client(self._driver, self._queue, self.start)

    # -- how prompts become requests ----------------------------------------------------------------------------

    def _pinned(self, agent_index: int) -> PromptQueue:
        if not -self.size <= agent_index < self.size:
            raise ConfigError(f"agent_index: expected an index below {self.size}, got {agent_index}")
        return PromptQueue([self._members[agent_index]], patience=0.0, pinned=True)

    async def _prepare(self) -> None:
        await self._serving.learn(self._driver)
        model = self._serving.model or ""
        if self.supports_batch:
            self._prompting.tokenizer.unresponsive |= self._serving.silent
            await self._prompting.learn(model)
            body = completions.encode_request(model, ["ping"], {}, 1)
            self._driver.probe_request = (completions.PATH, body)
        else:
            self._driver.probe_request = (chat.PATH, chat.encode_request(model, chat.as_messages("ping"), {}, 1))

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        settings = self._prompting.settings(self.model or "", batched=options.batched)
        sampling = options.sampling or self._sampling
        max_tokens = options.max_tokens or self.max_tokens
        contexts = [
            (context, queue if len(members) == len(queue.members) else PromptQueue(members, patience=queue.patience))
            for context, members in self._serving.contexts(queue.members)
        ]

        async def send_parts(parts: Sequence[Prompt]) -> list[Response]:
            fitting = dataclasses.replace(settings, on_too_long="error")
            planner = Planner(fitting, sampling, max_tokens, queue, contexts, send_parts)
            return await Call(self._driver, queue, parts, planner).all()

        return Planner(settings, sampling, max_tokens, queue, contexts, send_parts)
