"""Blank answers, of a reasoning model with too few tokens say, are no answers: they are named, and left out."""

from __future__ import annotations

import pytest

from aurora_pool import Response
from aurora_pool.aggregators import best_of, concat, failure_report, majority_vote, top_k
from aurora_pool.patterns import Stage, run_pipeline, tree_reduce
from tests.hostile.odd_server import Asked, good, pool_of, reply_of

BLANK = Response(True, " \n", finish_reason="length", reasoning="Hm, let me see")
YES = Response(True, "yes")


def thinking(asked: Asked) -> bytes:
    """A model that is still thinking about anything with an x in it when its tokens are used up."""
    if not any("x" in str(prompt) for prompt in asked.prompts):
        return good(asked)
    return reply_of([{"index": i, "text": "", "finish_reason": "length"} for i, _ in enumerate(asked.prompts)])


@pytest.mark.simulated_clock
async def test_blank_leaves_are_lost_with_the_reason() -> None:
    async with pool_of(thinking, thinking) as (pool, _):
        result = await tree_reduce(pool, "Item {item}", "Merge {responses}", items=["x1", "x2", "x3"])
        assert (result.success, len(result.lost), result.text) == (False, 3, "")
        assert "blank: max_tokens ended it" in result.lost[0].error
        kept = await tree_reduce(pool, "Item {item}", "Merge {responses}", items=["x1"], keep_blank=True)
        assert (kept.success, kept.text) == (True, "")


@pytest.mark.simulated_clock
async def test_a_blank_merge_is_a_failed_one() -> None:
    async with pool_of(thinking) as (pool, _):
        result = await tree_reduce(pool, "Item {item}", "max: {responses}", items=["1", "2"])
        assert not result.success
        assert "blank" in (result.error or "")
        assert "answer to Item 1" in result.text


@pytest.mark.simulated_clock
async def test_a_blank_answer_goes_no_further_in_a_pipeline() -> None:
    async with pool_of(thinking) as (pool, _):
        (result,) = await run_pipeline(pool, [Stage("a", "x {item}"), Stage("b", "then {a}")], ["1"])
        assert not result.success
        assert "blank" in (result.error or "")


def test_blank_answers_have_no_vote_unless_they_are_kept() -> None:
    vote = majority_vote([BLANK, BLANK, YES])
    assert (vote.winner, vote.share, vote.blank) == ("yes", 1.0, 2)
    assert majority_vote([BLANK, BLANK, YES], keep_blank=True).winner == ""


def test_blank_answers_are_left_out_and_counted() -> None:
    responses = [BLANK, YES]
    assert concat(responses) == "yes"
    assert best_of(responses, score=lambda response: -len(response.text)) is YES
    assert top_k(responses, 2, score=lambda response: len(response.text)) == [YES]
    assert failure_report(responses).blank == (0,)
    assert str(failure_report(responses)).endswith("1 of 2 answers are blank")


def test_what_has_no_text_because_it_is_something_else_is_not_blank() -> None:
    assert not Response(True, "", embedding=b"\0\0\0\0").blank
    assert not Response(True, "", finish_reason="tool_calls", tool_calls=[{}]).blank
    assert not Response(False, "").blank
