"""The pool for text: many ``vllm serve`` endpoints as one async client."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from aurora_pool.agent_pool import AgentPool
from aurora_pool.arguments import check_index, check_instance, check_whole
from aurora_pool.errors import NoAgentsError
from aurora_pool.hostfile import AnyEndpoint
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.messages import AnyPrompt, Prompt, Response, Sampling
from aurora_pool.options import ConnectionOptions, HostedOptions, Observer, PromptOptions, Timeouts
from aurora_pool.policy.callers import Caller, PromptQueue
from aurora_pool.policy.prefix import Prefix
from aurora_pool.policy.scheduler import Balance
from aurora_pool.pool_options import CallOptions, VLLMPoolOptions
from aurora_pool.prompts.content import check_sampling
from aurora_pool.prompts.planner import Planner
from aurora_pool.prompts.settings import PromptHandling
from aurora_pool.runtime.call import Call
from aurora_pool.runtime.discovery import Discovery
from aurora_pool.runtime.fleet_options import FleetOptions
from aurora_pool.runtime.once import all_of
from aurora_pool.runtime.request_kinds import PlanPrompts
from aurora_pool.wire import chat, completions

if TYPE_CHECKING:
    import openai

    from aurora_pool.blocking import BlockingPool

__all__ = ["VLLMPool"]


class VLLMPool(AgentPool):
    """Many ``vllm serve`` endpoints as one async client for text.

    >>> async with VLLMPool(["gpu01:8000", "http://gpu02:8001/v1"], max_tokens=16) as pool:  # doctest: +SKIP
    ...     responses = await pool.send_all_batched(["Name a colour.", "Name a tree."])

    ``endpoints`` are :class:`AgentEndpoint` objects, lines of a hostfile or (host, port) pairs; one that is listed
    twice counts once.

    Everyday options:

    - ``model``: the name to ask for; None takes the one model that the fleet serves.
    - ``max_tokens``: how many tokens to generate at most; None fits it to what the context leaves each prompt.
      ``max_tokens_aggregation`` is the same for reduce steps.
    - ``system_prompt``: put before text, in the model's chat template.
    - ``sampling``: how prompts are answered that have none of their own and whose call has none.
    - ``timeout``: seconds that a prompt may take from its first sending; None sets no limit.
    - ``balance``: ``"adaptive"``, or ``"strict"``: prompt ``i`` on agent ``i % size`` unless that agent fails.
    - ``prefix``: ``"auto"`` keeps prompts that share a long beginning together, so that it is computed on one agent;
      ``"off"`` does not look.

    Seldom needed:

    - ``model_max_context``: the context length in tokens; None takes what ``/v1/models`` says. ``buffer`` tokens of it
      are left free, because prompt lengths are estimates.
    - ``use_batch``: send lists of prompts as one ``/v1/completions`` request; False sends each in one of its own.
    - ``concurrency``: the most HTTP requests at a time; ``connector_limit``: the most open connections.
    - ``prompting``: a :class:`PromptOptions`: chat template, prompts that are too long, streaming.
    - ``timeouts``: a :class:`Timeouts`: how long to wait for what.
    - ``connection``: a :class:`ConnectionOptions`: headers, certificates.
    - ``observer``: an :class:`Observer`, which is called for events as they happen.
    - ``hosted``: a :class:`HostedOptions`: when agents that cost money are asked, and how much they may cost.
    - ``rng``: draws what is drawn at random; a seeded one makes the pool's choices repeatable.

    Raises :class:`ConfigError` for invalid arguments and :class:`NoAgentsError` if there is no endpoint.
    """

    def __init__(
        self,
        endpoints: Iterable[AnyEndpoint],
        *,
        model: str | None = None,
        max_tokens: int | None = None,
        max_tokens_aggregation: int | None = None,
        model_max_context: int | None = None,
        buffer: int = 64,
        system_prompt: str | None = None,
        sampling: Sampling | None = None,
        use_batch: bool = True,
        timeout: float | None = None,
        balance: Balance = "adaptive",
        prefix: Prefix = "auto",
        concurrency: int | None = None,
        connector_limit: int | None = None,
        prompting: PromptOptions | None = None,
        timeouts: Timeouts | None = None,
        connection: ConnectionOptions | None = None,
        observer: Observer | None = None,
        rng: random.Random | None = None,
        hosted: HostedOptions | None = None,
    ) -> None:
        check_instance("model", model, str)
        check_whole(1, max_tokens=max_tokens, max_tokens_aggregation=max_tokens_aggregation)
        check_whole(2, model_max_context=model_max_context)
        check_whole(0, optional=False, buffer=buffer)
        check_instance("system_prompt", system_prompt, str)
        if sampling is not None:
            check_sampling(sampling)
        check_instance("use_batch", use_batch, bool, optional=False)
        check_instance("prompting", prompting, PromptOptions)
        check_instance("hosted", hosted, HostedOptions)
        prompting = prompting or PromptOptions()
        options = FleetOptions(
            timeout=timeout,
            balance=balance,
            prefix=prefix,
            concurrency=concurrency,
            connector_limit=connector_limit,
            timeouts=timeouts,
            connection=connection,
            observer=observer,
            rng=rng,
            stream=prompting.stream,
        )
        super().__init__(endpoints, Discovery(model, model_max_context), options)
        self._hosted = hosted or HostedOptions()
        self._runtime.spill_over(self._hosted)
        self._prompt_options = prompting
        self._max_tokens = max_tokens
        self._max_tokens_aggregation = max_tokens_aggregation
        self._buffer = buffer
        self._batched = use_batch
        self._system_prompt = system_prompt
        self._model_max_context = model_max_context
        self._sampling = sampling or Sampling()
        self._handling = PromptHandling(self._runtime, prompting, system_prompt=system_prompt, buffer=buffer)
        self._known_handling: dict[str, PromptHandling] = {}
        """What has been learnt of models; a pool and its views share it."""

    @classmethod
    def from_hostfile(cls, path: str | Path, **options: Unpack[VLLMPoolOptions]) -> Self:
        """Make a pool of the agents in a hostfile; the options are the constructor's.

        >>> pool = VLLMPool.from_hostfile("fleet.hostfile", max_tokens=64)  # doctest: +SKIP

        Raises :class:`HostfileError`, which names file and line, and what the constructor raises.
        """
        return cls(parse_hostfile(path), **options)

    @property
    def supports_batch(self) -> bool:
        """Whether prompts go as list requests: what ``use_batch`` said."""
        return self._batched

    @property
    def max_tokens(self) -> int | None:
        """How many tokens to generate at most for a prompt; None fits it to the context."""
        return self._max_tokens

    @property
    def max_tokens_aggregation(self) -> int | None:
        """How many tokens to generate at most in reduce steps; None fits it to the context."""
        return self._max_tokens_aggregation

    @property
    def buffer(self) -> int:
        """Tokens of the context that are left free."""
        return self._buffer

    @property
    def system_prompt(self) -> str | None:
        """The text that is put before prompts, in the model's chat template."""
        return self._system_prompt

    @property
    def sampling(self) -> Sampling:
        """How prompts are answered that have no sampling of their own and whose call has none."""
        return self._sampling

    @property
    def use_batch(self) -> bool:
        """Whether prompts go as list requests."""
        return self._batched

    @property
    def prefix(self) -> Prefix:
        """Whether prompts that share a long beginning are kept together: ``"auto"`` or ``"off"``."""
        return self._options.prefix

    @property
    def prompting(self) -> PromptOptions:
        """How prompts become requests."""
        return self._prompt_options

    @property
    def hosted(self) -> HostedOptions:
        """When hosted agents are asked, and what they may cost."""
        return self._hosted

    @property
    def model_max_context(self) -> int | None:
        """The context length in tokens that the constructor was given; :attr:`max_context` is the one that holds."""
        return self._model_max_context

    @property
    def model(self) -> str | None:
        """The model's name; None while it has not been found out."""
        return self._discovery.model

    @property
    def max_context(self) -> int | None:
        """The context length in tokens, the least among the agents; None while none is known."""
        return self._discovery.least_context(self._agents.present)

    def estimate_tokens(self, text: str) -> int:
        """Estimate how many tokens a text has, on the long side; calibrated by what the servers have counted so far.

        >>> pool.estimate_tokens("Name a colour.")  # doctest: +SKIP
        """
        return self._handling.estimate.of(text)

    async def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Give the token ids of a text, by the served model's tokenizer; never with the chat template around it.

        Raises :class:`TransportError` or :class:`ServerError` if no agent can tell.

        >>> await pool.tokenize(" Paris", add_special_tokens=False)  # doctest: +SKIP
        [7042]
        """
        check_instance("text", text, str, optional=False)
        await self.start()
        return await self._handling.tokenizer.encode(self.model or "", text, add_special_tokens=add_special_tokens)

    async def post(self, agent_index: int, prompt: AnyPrompt, max_tokens: int | None = None) -> Response:
        """Ask the agent at ``agent_index`` by a request of its own. If it is out of service, the response says so.

        >>> response = await pool.post(0, "Name a colour.", max_tokens=8)  # doctest: +SKIP

        ``max_tokens`` is the most tokens to generate. Raises :class:`ConfigError` for an index that does not exist.
        """
        options = CallOptions(max_tokens, None, batched=False)
        (response,) = await self._gather(self._pinned(agent_index), [prompt], options)
        return response

    async def post_batch(
        self, agent_index: int, prompts: Iterable[AnyPrompt], max_tokens: int | None = None
    ) -> list[Response]:
        """Send prompts to the agent at ``agent_index`` in one list request; more than 1,024 prompts take several.

        >>> responses = await pool.post_batch(0, ["Name a colour.", "Name a tree."], max_tokens=8)  # doctest: +SKIP

        ``max_tokens`` is the most tokens to generate per prompt. Raises :class:`ConfigError` for an index that does not
        exist.
        """
        options = CallOptions(max_tokens, None, self.supports_batch)
        return await self._gather(self._pinned(agent_index), prompts, options)

    async def broadcast_prompt(self, prompt: AnyPrompt, max_tokens: int | None = None) -> list[Response]:
        """Ask every agent the same; return one response per agent, in the order of :attr:`endpoints`.

        >>> responses = await pool.broadcast_prompt("Which model are you?", max_tokens=8)  # doctest: +SKIP

        ``max_tokens`` is the most tokens to generate per agent. Raises :class:`NoAgentsError` for an empty view.
        """
        if not self._agents.members:
            raise NoAgentsError("this pool has no agents")
        await self.start()
        return await all_of(*(self.post(index, prompt, max_tokens) for index in self._agents.places))

    def as_caller(self, *, weight: float = 1.0, priority: int = 0) -> Self:
        """Return a view of the same agents all of whose calls together share the fleet as one caller.

        >>> ann, bob = pool.as_caller(weight=2.0), pool.as_caller()  # doctest: +SKIP

        However many calls ann makes, together they get twice the tokens of bob's. ``weight`` and ``priority`` are as in
        :meth:`send_all_batched`; what the calls themselves say does not count here. Raises :class:`ConfigError` for
        invalid arguments.
        """
        CallOptions(None, None, self.supports_batch, weight, priority)
        return self._derived(_caller=Caller(weight=weight, priority=priority))

    def sync(self) -> BlockingPool[Self]:
        """Make a pool without ``await`` of this one, for plain scripts, notebooks and threads.

        >>> with VLLMPool.from_hostfile("fleet.hostfile").sync() as pool:  # doctest: +SKIP
        ...     responses = pool.send_all_batched(["Name a colour."], max_tokens=8)
        """
        from aurora_pool.blocking import BlockingPool  # noqa: PLC0415 (few need it, and it imports anyio)

        return BlockingPool(self)

    def openai_client(self) -> openai.AsyncOpenAI:
        """Make an ``openai.AsyncOpenAI`` whose requests are balanced over this pool.

        >>> client = pool.openai_client()  # doctest: +SKIP
        >>> await client.chat.completions.create(model=pool.model, messages=[...])  # doctest: +SKIP
        """
        from aurora_pool.contrib.openai import make_client  # noqa: PLC0415 (importing openai takes most of a second)

        return make_client(self.forwarder())

    # -- how prompts become requests ----------------------------------------------------------------------------

    def _pinned(self, agent_index: int) -> PromptQueue:
        check_index("agent_index", agent_index, len(self._agents.members))
        return self._agents.pinned(agent_index)

    async def _prepare(self) -> None:
        await super()._prepare()
        model = self._discovery.model or ""
        if self.supports_batch:
            self._handling = self._known_handling.setdefault(model, self._handling)
            self._handling.tokenizer.unresponsive |= self._discovery.undiscovered
            if self._agents.own:
                await self._handling.ready(model, self._agents.own)

    def _probe_request(self) -> tuple[str, bytes]:
        model = self.model or ""
        if self.supports_batch or self._handling.format == "raw":
            return completions.PATH, completions.encode_request(model, ["ping"], {}, 1)
        return chat.PATH, chat.encode_request(model, chat.as_messages("ping"), {}, 1)

    async def _find_out(self, joined: Sequence[int]) -> None:
        await super()._find_out(joined)
        self._handling.tokenizer.members = self._agents.own

    def _of_its_own(self) -> dict[str, Any]:
        return {**super()._of_its_own(), "_handling": self._handling.for_others()}

    async def start(self) -> None:
        """Open the pool and find out what the agents serve, and how: see :meth:`AgentPool.start`."""
        await super().start()
        await self._handling.ask_again(self.model or "")

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        batched = options.batched and bool(self._agents.own)
        settings = self._handling.settings(self.model or "", batched=batched)
        sampling = options.sampling or self._sampling
        max_tokens = options.max_tokens or self.max_tokens
        contexts = [
            (context, queue if len(members) == len(queue.view.members) else queue.over(members))
            for context, members in self._discovery.contexts(queue.view.members)
        ]

        async def send_parts(parts: Sequence[Prompt]) -> list[Response]:
            fitting = dataclasses.replace(settings, on_too_long="error")
            planner = Planner(fitting, sampling, max_tokens, queue, contexts, send_parts)
            return await Call(self._runtime, queue, parts, planner).all()

        return Planner(settings, sampling, max_tokens, queue, contexts, send_parts)
