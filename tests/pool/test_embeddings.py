"""Texts to vectors over the same fleet machinery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aurora_pool import ConfigError, PromptRejected
from aurora_pool.embeddings import EmbeddingPool, scatter_gather_embeddings, vector_of
from aurora_pool.testing import AgentProfile, SimulatedFleet

pytestmark = pytest.mark.simulated_clock

PATH = "/v1/embeddings"
TEXTS = [f"text number {i}" for i in range(10)]


def inputs_at(fleet: SimulatedFleet) -> list[Sequence[Any]]:
    return [[request.body["input"] for request in agent.requests if request.path == PATH] for agent in fleet.agents]


async def test_each_agent_gets_one_list_and_vectors_come_back_in_order() -> None:
    async with (
        SimulatedFleet(4, profile=AgentProfile(embedding_size=16)) as fleet,
        EmbeddingPool(fleet.endpoints) as pool,
    ):
        vectors = await scatter_gather_embeddings(pool, TEXTS)
        assert inputs_at(fleet) == [[TEXTS[agent::4]] for agent in range(4)]
        assert vectors.shape == (10, 16)
        assert vectors.dtype == np.float32
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        alone = [vector_of(response) for response in await pool.send_all(TEXTS)]
        assert np.array_equal(vectors, np.stack([vector for vector in alone if vector is not None]))


async def test_an_agent_that_dies_costs_no_vector() -> None:
    async with SimulatedFleet(2) as fleet, EmbeddingPool(fleet.endpoints, balance="strict") as pool:
        fleet.agents[1].die()
        assert not np.isnan(await scatter_gather_embeddings(pool, TEXTS)).any()


async def test_a_text_that_fails_is_a_row_of_nan_and_a_failed_response() -> None:
    async with SimulatedFleet(1) as fleet, EmbeddingPool(fleet.endpoints) as pool:
        fleet.agents[0].reject("number 3", "no threes")
        vectors = await scatter_gather_embeddings(pool, TEXTS)
        assert list(np.flatnonzero(np.isnan(vectors).any(axis=1))) == [3]
        failed = (await pool.send_all_batched(TEXTS))[3]
        assert (failed.success, failed.error_kind, failed.embedding) == (False, "rejected", None)
        with pytest.raises(PromptRejected, match="no threes"):
            await scatter_gather_embeddings(pool, [TEXTS[3]])


async def test_nothing_to_embed() -> None:
    async with SimulatedFleet(1) as fleet, EmbeddingPool(fleet.endpoints) as pool:
        assert (await scatter_gather_embeddings(pool, [])).shape == (0, 0)
        bad: Any = [{"role": "user"}]
        with pytest.raises(ConfigError, match="prompt 0"):
            await pool.send_all_batched(bad)
        with pytest.raises(ConfigError, match="dimensions"):
            EmbeddingPool(fleet.endpoints, dimensions=0)
