"""The pool for vectors: many ``vllm serve`` embedding endpoints as one async client. Needs numpy (``[embeddings]``)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, get_args

import numpy as np
import numpy.typing as npt

from aurora_pool.agent_pool import AgentPool
from aurora_pool.arguments import check_instance, check_one_of, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.hostfile import AnyEndpoint
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.messages import AnyPrompt, AnyPrompts, Response
from aurora_pool.options import ConnectionOptions, Observer, Timeouts
from aurora_pool.policy.callers import PromptQueue
from aurora_pool.policy.scheduler import Balance
from aurora_pool.policy.work import WorkItem
from aurora_pool.pool_calls import CallInProgress
from aurora_pool.pool_options import CallOptions, EmbeddingOnTooLong, EmbeddingPoolOptions
from aurora_pool.prompts.content import as_content, why_unsendable
from aurora_pool.runtime.discovery import Discovery
from aurora_pool.runtime.fleet_options import FleetOptions
from aurora_pool.runtime.request_kinds import EmbeddingsList, PlanPrompts, PlanResult, Sink
from aurora_pool.wire import embeddings

if TYPE_CHECKING:
    from aurora_pool.blocking import BlockingPool

__all__ = ["EmbeddingPool", "scatter_gather_embeddings", "stack", "vector_of"]


class EmbeddingPool(AgentPool):
    """Many embedding endpoints as one client: text or token ids in, responses with an ``embedding`` out.

    >>> async with EmbeddingPool(parse_hostfile("embedders.hostfile")) as pool:  # doctest: +SKIP
    ...     vectors = await scatter_gather_embeddings(pool, ["a text", "another"])

    ``model`` is the name to ask for; None takes the one model that the fleet serves. ``dimensions`` asks for shorter
    vectors, where the model can give them. A text that is longer than the model's context is a failed response or, with
    ``on_too_long="truncate"``, cut by the server as its tokenizer does. ``endpoints`` and the other options are those
    of :class:`~aurora_pool.VLLMPool`. Raises :class:`ConfigError` for invalid arguments and :class:`NoAgentsError` if
    there is no endpoint.
    """

    def __init__(
        self,
        endpoints: Iterable[AnyEndpoint],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        on_too_long: EmbeddingOnTooLong = "error",
        timeout: float | None = None,
        balance: Balance = "adaptive",
        concurrency: int | None = None,
        connector_limit: int | None = None,
        timeouts: Timeouts | None = None,
        connection: ConnectionOptions | None = None,
        observer: Observer | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_instance("model", model, str)
        check_whole(1, dimensions=dimensions)
        check_one_of("on_too_long", on_too_long, get_args(EmbeddingOnTooLong))
        options = FleetOptions(
            timeout=timeout,
            balance=balance,
            concurrency=concurrency,
            connector_limit=connector_limit,
            timeouts=timeouts,
            connection=connection,
            observer=observer,
            rng=rng,
        )
        super().__init__(endpoints, Discovery(model, None), options)
        self._dimensions = dimensions
        self._on_too_long = on_too_long
        self._fields: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        if on_too_long == "truncate":
            self._fields["truncate_prompt_tokens"] = -1  # to what the model's context holds

    @classmethod
    def from_hostfile(cls, path: str | Path, **options: Unpack[EmbeddingPoolOptions]) -> Self:
        """Make a pool of the agents in a hostfile; the options are the constructor's.

        >>> pool = EmbeddingPool.from_hostfile("embedders.hostfile", dimensions=256)  # doctest: +SKIP

        Raises :class:`HostfileError`, which names file and line, and what the constructor raises.
        """
        return cls(parse_hostfile(path), **options)

    @property
    def gives_vectors(self) -> bool:
        """Whether its responses hold embeddings: they do."""
        return True

    @property
    def supports_batch(self) -> bool:
        """Whether texts go as list requests: they do."""
        return True

    @property
    def model(self) -> str | None:
        """The model's name; None while it has not been found out."""
        return self._discovery.model

    @property
    def dimensions(self) -> int | None:
        """The length of vectors that is asked for; None takes the model's own."""
        return self._dimensions

    @property
    def on_too_long(self) -> EmbeddingOnTooLong:
        """What becomes of a text that is longer than the context: ``"error"`` or ``"truncate"``."""
        return self._on_too_long

    def sync(self) -> BlockingPool[Self]:
        """Make a pool without ``await`` of this one, for plain scripts, notebooks and threads.

        >>> with EmbeddingPool.from_hostfile("fleet.hostfile").sync() as pool:  # doctest: +SKIP
        ...     vectors = pool.run(scatter_gather_embeddings, texts)
        """
        from aurora_pool.blocking import BlockingPool  # noqa: PLC0415 (few need it, and it imports anyio)

        return BlockingPool(self)

    def _probe_request(self) -> tuple[str, bytes]:
        return embeddings.PATH, embeddings.encode_request(self.model or "", ["ping"], self._fields)

    async def _call(
        self, queue: PromptQueue, prompts: AnyPrompts, options: CallOptions, total: int | None
    ) -> CallInProgress:
        if options.max_tokens is not None or options.sampling is not None:
            raise ConfigError("max_tokens and sampling: expected neither, for embeddings generate nothing")
        return await super()._call(queue, prompts, options, total)

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        kinds: dict[Sink, EmbeddingsList] = {}

        def item(index: int, prompt: AnyPrompt, sink: Sink) -> PlanResult:
            try:
                content: Any = as_content(prompt)
            except ConfigError as error:
                return Response(False, "", str(error), None, "rejected")
            reason = why_unsendable(content)
            if isinstance(content[:1], list) and isinstance(content[0], dict):
                reason = "expected text or token ids, got messages"
            if reason is not None:
                return Response(False, "", reason, None, "rejected")
            kind = kinds.get(sink)
            if kind is None:
                kind = kinds[sink] = EmbeddingsList(sink, self.model or "", self._fields, single=not options.batched)
            return WorkItem(queue, index, kind, content, limit=kind.limit)

        def make(start: int, prompts: Sequence[AnyPrompt], sink: Sink) -> Iterator[PlanResult]:
            return (item(index, prompt, sink) for index, prompt in enumerate(prompts, start))

        return make


async def scatter_gather_embeddings(pool: EmbeddingPool, texts: Iterable[AnyPrompt]) -> npt.NDArray[np.float32]:
    """Embed texts over the whole pool; return an array of shape (texts, dimensions), in the order of the texts.

    >>> vectors = await scatter_gather_embeddings(pool, ["a text", "another"])  # doctest: +SKIP

    A text whose embedding failed has a row of NaN; ask ``pool.send_all_batched`` for the reasons. No texts give an
    array of shape (0, 0). Raises what :meth:`Response.raise_for_status` does if every text failed.
    """
    responses = await pool.send_all_batched(texts)
    return stack(responses)


def stack(responses: Sequence[Response]) -> npt.NDArray[np.float32]:
    """Put the embeddings of responses into one array, NaN where there is none.

    Raises what :meth:`Response.raise_for_status` does if every text failed.
    """
    vectors = [vector_of(response) for response in responses]
    known = next((vector for vector in vectors if vector is not None), None)
    if known is None:
        for response in responses:
            response.raise_for_status()
        return np.empty((0, 0), dtype=np.float32)
    missing = np.full_like(known, np.nan)
    return np.stack([missing if vector is None else vector for vector in vectors])


def vector_of(response: Response) -> npt.NDArray[np.float32] | None:
    """Give the vector in a response, of shape (dimensions,); None in a failed one."""
    if response.embedding is None:
        return None
    if isinstance(response.embedding, bytes):
        return np.frombuffer(response.embedding, dtype="<f4")
    return np.asarray(response.embedding, dtype=np.float32)
