"""The pool over an engine in this process, with an engine that answers by rule."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from aurora_pool import ConfigError, Prompt, Response, Sampling
from aurora_pool.engines import EngineDied, EnginePool, Question, QuestionRefused
from aurora_pool.errors import PoolClosedError
from aurora_pool.jobs import run_job
from aurora_pool.patterns import scatter_gather, tree_reduce


class Scripted:
    """Answers a prompt ``"3 words"`` after 3 turns of the loop; refuses ``bad`` and dies of ``die``."""

    model = "scripted"
    capacity = 2
    context = 1000

    def __init__(self) -> None:
        self.started = self.closed = self.cancelled = self.most = 0
        self.asked: list[Question] = []
        self._now = 0

    async def start(self) -> None:
        self.started += 1

    async def close(self) -> None:
        self.closed += 1

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [len(word) for word in text.split()]

    async def answer(self, question: Question) -> Response:
        self.asked.append(question)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            text = str(question.content)
            if "bad" in text:
                raise QuestionRefused("no")
            if "die" in text:
                raise EngineDied("it is dead")
            for _ in range(int(text.split(maxsplit=1)[0]) if text[0].isdigit() else 1):
                await asyncio.sleep(0)
            return Response(True, text.upper(), agent_index=0, finish_reason="stop", completion_tokens=2, attempts=1)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self._now -= 1


async def test_answers_come_in_the_order_in_which_they_end() -> None:
    async with EnginePool(Scripted()) as pool:
        found = [index async for index, _ in pool.iter_responses(["90 words", "5 words", "40 words"])]
    assert found == [1, 2, 0]


async def test_lists_come_back_in_their_own_order_and_a_bad_prompt_fails_alone() -> None:
    async with EnginePool(Scripted()) as pool:
        first, second, third = await pool.send_all_batched(["9 a", "bad", "1 c"])
        statistics = pool.statistics()
    assert (first.text, third.text) == ("9 A", "1 C")
    assert (second.success, second.error, second.error_kind) == (False, "no", "rejected")
    assert (statistics.prompts_done, statistics.prompts_failed, statistics.tokens_done) == (2, 1, 4)
    assert pool.supports_batch


async def test_no_more_is_pulled_than_the_engine_can_use() -> None:
    engine = Scripted()
    async with EnginePool(engine) as pool:
        assert len([pair async for pair in pool.iter_responses(f"3 {n}" for n in range(50))]) == 50
    assert engine.most == 2 * engine.capacity


async def test_what_a_prompt_says_wins_over_the_call_and_that_over_the_pool() -> None:
    engine = Scripted()
    async with EnginePool(engine, max_tokens=5, sampling=Sampling(temperature=0.5)) as pool:
        await pool.send_all(["a"])
        await pool.send_all(["b"], 6, sampling=Sampling(temperature=0.6))
        await pool.send_all([Prompt("c", Sampling(temperature=0.7), 7, "raw")], 6)
    assert [(each.max_tokens, each.sampling.temperature, each.template) for each in engine.asked] == [
        (5, 0.5, True),
        (6, 0.6, True),
        (7, 0.7, False),
    ]


async def test_a_bad_prompt_from_a_generator_fails_alone() -> None:
    hot: Any = Prompt("b", Sampling(temperature="hot"))  # type: ignore[arg-type]
    async with EnginePool(Scripted()) as pool:
        found = {index: response async for index, response in pool.iter_responses(iter(["a", None, hot, "c"]))}
        assert pool.statistics().prompts_failed == 2
    assert [index for index in range(4) if not found[index].success] == [1, 2]
    assert found[2].error == "sampling.temperature: expected `float | null`, got `str`"


async def test_what_it_was_given_can_be_read_and_not_changed() -> None:
    given: dict[str, Any] = {"max_tokens": 8, "max_tokens_aggregation": 9, "sampling": Sampling(seed=1)}
    pool = EnginePool(Scripted(), **given)
    assert {name: getattr(pool, name) for name in given} == given
    for name in given:
        with pytest.raises(AttributeError, match=name):
            setattr(pool, name, None)
    hot: Any = Sampling(temperature="hot")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sampling"):
        EnginePool(Scripted(), sampling=hot)


async def test_its_engine_is_its_only_agent() -> None:
    pool = EnginePool(Scripted())
    with pytest.raises(ConfigError, match="update_endpoints"):
        pool.update_endpoints(["gpu01"])
    for each in (pool, pool.slice(0, 1)):
        with pytest.raises(ConfigError, match="forwarder"):
            each.forwarder()
    assert [response.text for response in await pool.send_all(["a"])] == ["A"]


@pytest.mark.parametrize("share", [{"weight": 2.0}, {"priority": -1}])
async def test_calls_have_no_weight_and_no_priority(share: Any) -> None:
    async with EnginePool(Scripted()) as pool:
        with pytest.raises(ConfigError, match="weight, priority"):
            await pool.send_all_batched(["a"], **share)
        with pytest.raises(ConfigError, match="weight, priority"):
            await anext(pool.iter_responses(["a"], **share))


def test_it_works_without_await() -> None:
    with EnginePool(Scripted()).sync() as pool:
        assert [response.text for response in pool.run(scatter_gather, ["a", "b"])] == ["A", "B"]


async def test_closing_the_iterator_cancels_what_is_in_flight() -> None:
    engine = Scripted()
    async with EnginePool(engine) as pool:
        async with aclosing(pool.iter_responses(["1 a", *["900 words"] * 3])) as responses:
            async for _ in responses:
                break
        assert engine.cancelled == 3
        assert pool.statistics().in_flight == 0


async def test_the_next_prompt_may_depend_on_an_answer() -> None:
    answers: asyncio.Queue[str] = asyncio.Queue()

    async def chain() -> AsyncIterator[str]:
        yield "a"
        for _ in range(5):
            yield f"{await answers.get()}b"

    async with EnginePool(Scripted()) as pool:
        async for _, response in pool.iter_responses(chain()):
            answers.put_nowait(response.text)
            last = response.text
    assert last == "ABBBBB"


async def test_a_mistake_in_the_engine_is_raised_and_hangs_nobody() -> None:
    async with EnginePool(Scripted()) as pool:
        with pytest.raises(IndexError):
            await pool.send_all(["a", ""])


async def test_the_engine_starts_once_and_ends_once() -> None:
    engine = Scripted()
    pool = EnginePool(engine)
    view = pool.slice(0, 1)
    await asyncio.gather(pool.send_all(["a"]), view.send_all(["b"]))
    await view.close()
    assert (engine.started, engine.closed) == (1, 0)
    await pool.close()
    await pool.close()
    assert (engine.started, engine.closed) == (1, 1)
    with pytest.raises(PoolClosedError, match="closed"):
        await pool.send_all(["a"])


async def test_patterns_work_on_it() -> None:
    pool: Any  # patterns are typed for the pool of servers
    async with EnginePool(Scripted()) as pool:
        assert [each.text for each in await scatter_gather(pool, ["1 a", "2 b"])] == ["1 A", "2 B"]
        reduced = await tree_reduce(pool, prompt="{item}", reduce_prompt="{responses}", items=["a", "b", "c"])
    assert reduced.success


async def test_a_job_on_an_engine_that_dies_goes_on_with_the_next(tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": f"p{n}", "prompt": f"1 {'die' if n == 30 else 'bad' if n == 3 else n}"} for n in range(60)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with EnginePool(Scripted()) as pool:
        summary = await run_job(pool, source, output)
    assert summary.ending == "no agents"
    assert 0 < summary.done < 60

    class Sturdy(Scripted):
        async def answer(self, question: Question) -> Response:
            return Response(True, "yes", agent_index=0, finish_reason="stop", completion_tokens=1, attempts=1)

    before = output.read_bytes()
    async with EnginePool(Sturdy()) as pool:
        summary = await run_job(pool, source, output)
    assert (summary.ending, summary.answered, summary.failed) == ("finished", 59, 1)
    assert output.read_bytes().startswith(before)
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(record["custom_id"] for record in records) == sorted(str(line["id"]) for line in lines)
    assert {record["aurora_pool"]["agent"] for record in records if record["error"] is None} == {"in-process:1"}
