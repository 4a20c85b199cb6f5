from __future__ import annotations

from typing import Any

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.messages import Response, Sampling
from aurora_pool.patterns import Stage, fan_out_fan_in, run_pipeline, strip_reasoning
from tests.patterns.fake_pool import FakePool, failed


def echo(text: str) -> str:
    return text.partition(": ")[2]


def refuse_long(response: Response) -> str:
    if len(response.text) > 3:
        raise ValueError(f"{response.text!r} is too long")
    return response.text.upper()


FIRST = Stage("first", "1: {item}", max_tokens=5)
SECOND = Stage("second", "2: {item} of {input}")
THIRD = Stage("third", "3: {first}, {second}", sampling=Sampling(temperature=0.0))


async def test_items_go_through_all_stages_and_keep_their_order() -> None:
    pool = FakePool(echo)
    results = await run_pipeline(pool, [FIRST, SECOND, THIRD], range(20), sampling=Sampling(seed=3))
    assert [r.text for r in results] == [f"{n}, {n} of {n}" for n in range(20)]
    assert results[7].outputs == {"first": "7", "second": "7 of 7", "third": "7, 7 of 7"}
    assert all(r.success for r in results)
    kinds = {str(p.content)[0]: (p.max_tokens, p.sampling) for p in pool.sent}
    assert kinds == {
        "1": (5, Sampling(seed=3)),
        "2": (None, Sampling(seed=3)),
        "3": (None, Sampling(temperature=0.0)),
    }


async def test_later_stages_work_while_earlier_ones_do() -> None:
    pool = FakePool(echo, window=4)
    await run_pipeline(pool, [FIRST, SECOND], range(30))
    stages = [text[0] for text in pool.answered]
    assert stages.index("2") < 10
    assert len(pool.closed) == 1


async def test_an_item_that_fails_goes_no_further_and_the_others_go_on() -> None:
    pool = FakePool(lambda text: failed("400: too long", "rejected") if text == "2: b of b" else echo(text))
    ok, lost = await run_pipeline(pool, [FIRST, SECOND, THIRD], ["a", "b"])
    assert ok.success
    assert (lost.success, lost.text, lost.outputs) == (False, "b", {"first": "b"})
    assert (lost.failed_stage, lost.error, lost.error_kind) == ("second", "400: too long", "rejected")
    assert not any(text.startswith("3: b") for text in pool.answered)


async def test_a_stage_may_refuse_an_answer() -> None:
    stages = [Stage("cut", "1: {item}", read=refuse_long), SECOND]
    ok, lost = await run_pipeline(FakePool(echo), stages, ["abc", "abcd"])
    assert ok.text == "ABC of abc"
    assert (lost.failed_stage, lost.error) == ("cut", "the answer was refused: 'abcd' is too long")


async def test_no_items_give_no_results() -> None:
    assert await run_pipeline(FakePool(echo), [FIRST], []) == []


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        ([], "at least one stage"),
        ([FIRST, FIRST], "stage name 'first' is taken"),
        ([Stage("item", "{item}")], "stage name 'item' is taken"),
        (FIRST, r"stages: expected a list, .* got Stage"),
        (["{item}"], r"stages\[0\]: expected Stage, got '{item}'"),
        ([FIRST, Stage("x", "{third}")], r"stage 'x' has no \{item\} or \{input\} or \{first\} in it"),
    ],
)
async def test_misuse_is_told_before_anything_is_sent(stages: Any, match: str) -> None:
    pool = FakePool(echo)
    with pytest.raises(ConfigError, match=match):
        await run_pipeline(pool, stages, ["a", "b"])
    assert pool.sent == []


def merge(text: str) -> str:
    return text if text[0] in "xyz" else f"{text[0]}({' '.join(text[2:].split())})"


async def test_fan_out_fan_in_merges_the_answers_about_each_item() -> None:
    pool = FakePool(merge)
    results = await fan_out_fan_in(
        pool, ["a", "b", "c"], {"x": "x{item}", "y": "y{item}", "z": "z{item}"}, "{item}:{responses}", max_tokens=5
    )
    assert [r.text for r in results] == ["a(xa ya za)", "b(xb yb zb)", "c(xc yc zc)"]
    assert {p.max_tokens for p in pool.sent} == {5, 99}
    assert len(pool.closed) == 1


async def test_fan_out_fan_in_names_the_lost_branch() -> None:
    pool = FakePool(lambda text: failed("broken") if text == "ya" else merge(text))
    lost, ok = await fan_out_fan_in(
        pool, ["a", "b"], {"x": "x{item}", "y": "y{item}", "z": "z{item}"}, "{item}:{responses}"
    )
    assert ok.success
    assert (lost.success, lost.text, lost.error) == (False, "a(xa za)", "1 of 3 leaves lost (y: broken)")


async def test_fan_out_fan_in_has_a_limit_for_merges_and_cleans_answers() -> None:
    def answer(prompt: str) -> str:
        assert "<think>" not in prompt
        return f"<think>about {prompt}</think>\n\n({prompt})"

    pool = FakePool(answer)
    (result,) = await fan_out_fan_in(
        pool,
        ["a"],
        {"x": "x{item}", "y": "y{item}"},
        "{responses}",
        max_tokens=5,
        reduce_max_tokens=7,
        clean=strip_reasoning,
    )
    assert result.text == "((xa)\n\n(ya))"
    assert [prompt.max_tokens for prompt in pool.sent] == [5, 5, 7]


@pytest.mark.parametrize("keep_blank", [True, False])
async def test_a_blank_branch_is_lost_unless_it_is_kept(keep_blank: bool) -> None:
    pool = FakePool(lambda text: " " if text == "xa" else text)
    (result,) = await fan_out_fan_in(
        pool, ["a"], {"x": "x{item}", "y": "y{item}"}, "{responses}", keep_blank=keep_blank
    )
    assert (result.success, [leaf.name for leaf in result.lost]) == (keep_blank, [] if keep_blank else ["x"])


@pytest.mark.parametrize(
    ("prompts", "reduce_prompt", "match"),
    [
        ({}, "{responses}", "no prompts"),
        ({"a": "x"}, "{responses}", r"prompts\['a'\] has no \{item\}"),
        ({"a": "{item}"}, "x", r"has no \{responses\}"),
        (["{item}"], "{responses}", r"prompts: expected Mapping, got \['{item}'\]"),
        ({"a": 7}, "{responses}", r"prompts\['a'\]: expected str, got 7"),
        ({"a": "{item}"}, None, r"reduce_prompt: expected str, got None"),
    ],
)
async def test_fan_out_fan_in_refuses_misuse(prompts: Any, reduce_prompt: Any, match: str) -> None:
    pool = FakePool(merge)
    with pytest.raises(ConfigError, match=match):
        await fan_out_fan_in(pool, ["a", "b"], prompts, reduce_prompt)
    assert pool.sent == []
