"""The pool for vectors: many ``vllm serve`` embedding endpoints as one async client. Needs numpy (``[embeddings]``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from aurora_pool.agent_pool import AgentPool, CallOptions, new_driver
from aurora_pool.errors import AttemptsExhausted, ConfigError
from aurora_pool.hostfile import AgentEndpoint, parse_hostfile
from aurora_pool.messages import AnyPrompt, Response
from aurora_pool.policy.queues import PromptQueue
from aurora_pool.policy.work import WorkItem
from aurora_pool.runtime.discovery import Serving
from aurora_pool.runtime.request_kinds import EmbeddingsBatch, PlanPrompts, Sink
from aurora_pool.wire import embeddings


class EmbeddingPool(AgentPool):
    """Many embedding endpoints as one client: text or token ids in, responses with an ``embedding`` out.

    >>> async with EmbeddingPool(parse_hostfile("embedders.hostfile")) as pool:  # doctest: +SKIP
    ...     vectors = await scatter_gather_embeddings(pool, ["a text", "another"])

    ``model`` is the name to ask for; None takes the one model that the fleet serves. ``dimensions`` asks for shorter
    vectors, where the model can give them. The other options are those of :class:`~aurora_pool.VLLMPool`.
    """

    supports_batch = True

    def __init__(
        self,
        endpoints: Sequence[AgentEndpoint],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        **options: Any,
    ) -> None:
        if dimensions is not None and dimensions < 1:
            raise ConfigError(f"dimensions: expected at least 1, got {dimensions!r}")
        super().__init__(endpoints, new_driver(endpoints, **options))
        self._serving = Serving(model, None)
        self._fields: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}

    @classmethod
    def from_hostfile(cls, path: str | Path, **options: Any) -> Self:
        """Make a pool of the agents in a hostfile; the options are the constructor's. Raises :class:`HostfileError`."""
        return cls(parse_hostfile(path), **options)

    @property
    def model(self) -> str | None:
        """The model's name; None while it has not been found out."""
        return self._serving.model

    async def _prepare(self) -> None:
        await self._serving.learn(self._driver)
        self._driver.probe_request = (
            embeddings.PATH,
            embeddings.encode_request(self.model or "", ["ping"], self._fields),
        )

    def _planner(self, queue: PromptQueue, options: CallOptions) -> PlanPrompts:
        kinds: dict[Sink, EmbeddingsBatch] = {}

        def item(index: int, prompt: AnyPrompt, sink: Sink) -> WorkItem:
            if not isinstance(prompt, str) and not (
                isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], int)
            ):
                raise ConfigError(f"prompt {index}: expected text or token ids, got {type(prompt).__name__}")
            kind = kinds.get(sink)
            if kind is None:
                kind = kinds[sink] = EmbeddingsBatch(sink, self.model or "", self._fields, alone=not options.batched)
            return WorkItem(queue, index, kind, prompt, limit=kind.limit)

        def make(start: int, prompts: Sequence[AnyPrompt], sink: Sink) -> list[WorkItem]:
            return [item(index, prompt, sink) for index, prompt in enumerate(prompts, start)]

        return make


async def scatter_gather_embeddings(pool: EmbeddingPool, texts: Iterable[AnyPrompt]) -> npt.NDArray[np.float32]:
    """Embed texts over the whole pool; return an array of shape (texts, dimensions), in the order of the texts.

    A text whose embedding failed has a row of NaN; ask ``pool.send_all_batched`` for the reasons. No texts give an
    array of shape (0, 0). Raises :class:`ConfigError` if every text failed.
    """
    responses = await pool.send_all_batched(texts)
    return stack(responses)


def stack(responses: Sequence[Response]) -> npt.NDArray[np.float32]:
    """The embeddings of responses as one array, NaN where there is none."""
    vectors = [vector_of(response) for response in responses]
    known = next((vector for vector in vectors if vector is not None), None)
    if known is None:
        if responses:
            raise AttemptsExhausted(f"no text was embedded; the first failed with: {responses[0].error}")
        return np.empty((0, 0), dtype=np.float32)
    missing = np.full_like(known, np.nan)
    return np.stack([missing if vector is None else vector for vector in vectors])


def vector_of(response: Response) -> npt.NDArray[np.float32] | None:
    """The vector in a response, of shape (dimensions,); None in a failed one."""
    if response.embedding is None:
        return None
    if isinstance(response.embedding, bytes):
        return np.frombuffer(response.embedding, dtype="<f4")
    return np.asarray(response.embedding, dtype=np.float32)
