"""Texts to vectors over the same fleet machinery."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from aurora_pool import ConfigError, PromptRejected, Timeouts
from aurora_pool.embeddings import EmbeddingPool, scatter_gather_embeddings, vector_of
from aurora_pool.testing import AgentProfile, SimulatedFleet
from tests.pool.gateway import gateway

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


async def test_a_text_that_is_too_long_is_told_or_truncated() -> None:
    texts = ["short", "many words " * 200, "short too"]
    profile = AgentProfile(max_model_len=64, embedding_size=8)
    async with SimulatedFleet(2, profile=profile) as fleet:
        async with EmbeddingPool(fleet.endpoints) as pool:
            responses = await pool.send_all_batched(texts)
            assert [response.success for response in responses] == [True, False, True]
            assert responses[1].error_kind == "rejected"
            vectors = await scatter_gather_embeddings(pool, texts)
            assert np.isnan(vectors).any(axis=1).tolist() == [False, True, False]
        async with EmbeddingPool(fleet.endpoints, on_too_long="truncate") as pool:
            assert all(response.success for response in await pool.send_all_batched(texts))
            assert not np.isnan(await scatter_gather_embeddings(pool, texts)).any()
        with pytest.raises(ConfigError, match="on_too_long"):
            EmbeddingPool(fleet.endpoints, on_too_long="split")  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [True, False])
async def test_a_vector_with_nan_in_it_is_a_failed_response(packed: bool) -> None:
    numbers = [1.0, math.nan, 0.0]
    vector = base64.b64encode(struct.pack("<3f", *numbers)).decode() if packed else "[1.0, NaN, 0.0]"
    written = json.dumps(vector) if packed else vector
    body = f'{{"data": [{{"index": 0, "embedding": {written}}}], "model": "simulated-model"}}'

    def answer() -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with (
        SimulatedFleet(1) as fleet,
        gateway(fleet.endpoints[0], {"/v1/embeddings": answer}) as proxy,
        EmbeddingPool([proxy], timeouts=Timeouts(patience=3.0)) as pool,
    ):
        (response,) = await pool.send_all_batched(["a"])
        assert not response.success
        assert response.embedding is None
