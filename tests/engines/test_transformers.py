"""The engine over transformers, with stand-ins for torch and transformers that compute nothing."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aurora_pool import Prompt, Sampling
from aurora_pool.engines import EnginePool
from aurora_pool.engines.transformers import TransformersEngine
from aurora_pool.errors import PoolClosedError

VOCABULARY = 100
BAD = 66
"""A token that the model can't compute, though it is in the vocabulary."""
EOS = 2


class Inputs(dict[str, Any]):
    def to(self, device: str) -> Inputs:
        return self


class Tokenizer:
    """Makes a token of each word: its number, or 1."""

    chat_template = None
    pad_token_id = 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) if word.isdigit() else 1 for word in text.split()]}

    def pad(self, given: dict[str, list[list[int]]], **_: Any) -> Inputs:
        longest = max(map(len, given["input_ids"]))
        return Inputs(input_ids=np.array([[0] * (longest - len(ids)) + ids for ids in given["input_ids"]]))

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


class Model:
    """Answers each row with its last token and the end; ``batches`` are the rows of each call."""

    device = "cpu"
    config = SimpleNamespace(max_position_embeddings=50)
    generation_config = SimpleNamespace(eos_token_id=EOS)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def eval(self) -> Model:
        return self

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(num_embeddings=VOCABULARY)

    def generate(self, input_ids: Any, temperature: Any = 1.0, **_: Any) -> Any:
        self.batches.append(len(input_ids))
        self.asked.set()
        self.go_on.wait(60)
        if (input_ids == BAD).any():
            raise IndexError("index out of range in self")
        if not isinstance(temperature, float):
            raise TypeError("temperature is no number")
        return np.hstack([input_ids, input_ids[:, -1:], np.full((len(input_ids), 1), EOS)])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    created = Model()
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: False), inference_mode=contextlib.nullcontext, manual_seed=int
    )
    transformers = SimpleNamespace(
        AutoTokenizer=SimpleNamespace(from_pretrained=lambda *_, **__: Tokenizer()),
        AutoModelForCausalLM=SimpleNamespace(from_pretrained=lambda *_, **__: created),
        StoppingCriteriaList=list,
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    return created


async def test_a_token_beyond_the_vocabulary_fails_before_it_is_computed(model: Model) -> None:
    async with EnginePool(TransformersEngine("m"), max_tokens=5) as pool:
        beyond, negative, good = await pool.send_all_batched([Prompt([999999]), Prompt([-1]), "7"])
        later = await pool.ask("8")
    assert (beyond.error_kind, negative.error_kind) == ("rejected", "rejected")
    assert beyond.error == "the token id 999999 is beyond the model's vocabulary of 100"
    assert (good.text, later.text) == ("7", "8")
    assert model.batches == [1, 1]


async def test_of_a_batch_that_fails_only_the_bad_prompt_does(model: Model) -> None:
    async with EnginePool(TransformersEngine("m"), max_tokens=5) as pool:
        first, bad, third = await pool.send_all_batched(["7", str(BAD), "9"])
        later = await pool.ask("8")
    assert (first.text, third.text, later.text) == ("7", "9", "8")
    assert (bad.error_kind, bad.error) == ("rejected", "IndexError: index out of range in self")
    assert model.batches == [3, 1, 1, 1, 1]


async def test_whatever_the_model_raises_fails_the_prompt(model: Model) -> None:
    async with EnginePool(TransformersEngine("m"), max_tokens=5) as pool:
        (bad,) = await pool.send_all(["7"], sampling=Sampling(extra={"temperature": "hot"}))
        assert (bad.error_kind, (await pool.ask("8")).text) == ("rejected", "8")
    assert bad.error == "TypeError: temperature is no number"


async def test_a_worker_that_ends_leaves_nobody_waiting(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    async with EnginePool(TransformersEngine("m"), max_tokens=5) as pool:
        with monkeypatch.context() as broken:
            broken.setattr("aurora_pool.engines.transformers.BUDGET", None)  # what packs batches fails
            found = await pool.send_all_batched(["7", "8"])
        found += await pool.send_all(["9"])
    assert [each.error_kind for each in found] == ["no_agents"] * 3
    assert all((each.error or "").startswith("the engine has failed with TypeError") for each in found)


async def test_closing_ends_those_that_wait(model: Model) -> None:
    model.go_on.clear()
    pool = EnginePool(TransformersEngine("m"), max_tokens=5)
    await pool.start()
    asked = asyncio.create_task(pool.send_all_batched(["7", "8"]))
    await asyncio.to_thread(model.asked.wait, 60)
    closing = asyncio.create_task(pool.close())
    with pytest.raises(PoolClosedError, match="closed while prompts were in flight"):
        await asked
    model.go_on.set()
    await closing
