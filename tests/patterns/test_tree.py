"""The tree without a pool: every leaf is accounted for exactly once, whatever fails and in whatever order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.errors import ConfigError
from aurora_pool.messages import Response
from aurora_pool.patterns.templates import SEPARATOR
from aurora_pool.patterns.tree import LostLeaf, ReduceCall, ReduceResult, ReduceTree, TokenBudget
from tests.patterns.fake_pool import failed

TOO_LONG = "This model's maximum context length is 2048 tokens."


def merged(call: ReduceCall) -> Response:
    return Response(True, " ".join(call.texts), prompt_tokens=10, completion_tokens=1)


def run(
    tree: ReduceTree,
    leaves: Sequence[Response],
    *,
    order: random.Random,
    failing: frozenset[tuple[int, int]] = frozenset(),
    rejected_above: int = 10**6,
) -> tuple[ReduceResult, list[ReduceCall]]:
    """Answer what is due in random order; ``failing`` names the (level, group) pairs whose calls always fail."""
    due: list[int | ReduceCall] = list(range(len(leaves)))
    calls = []
    while due:
        step = due.pop(order.randrange(len(due)))
        if isinstance(step, int):
            due += tree.leaf_done(step, leaves[step])
            continue
        calls.append(step)
        if (step.level, step.group) in failing:
            due += tree.call_done(step, failed())
        elif len(step.texts) > rejected_above:
            due += tree.call_done(step, failed(TOO_LONG, "rejected"))
        else:
            due += tree.call_done(step, merged(step))
    return tree.result(), calls


def answers(count: int, lost: frozenset[int] = frozenset()) -> list[Response]:
    return [failed(f"leaf {i} broke") if i in lost else Response(True, f"<{i}>") for i in range(count)]


shapes = st.tuples(st.integers(1, 120), st.integers(2, 9))
sets_of_leaves = st.frozensets(st.integers(0, 119))
groups = st.frozensets(st.tuples(st.integers(1, 7), st.integers(0, 30)))
seeds = st.integers(0, 2**32).map(random.Random)
budgets = st.none() | st.integers(1, 60)


@given(shape=shapes, lost=sets_of_leaves, failing=groups, order=seeds, budget=budgets, rejected_above=st.integers(1, 9))
def test_every_leaf_is_accounted_for_exactly_once_and_in_order(
    *,
    shape: tuple[int, int],
    lost: frozenset[int],
    failing: frozenset[tuple[int, int]],
    order: random.Random,
    budget: int | None,
    rejected_above: int,
) -> None:
    count, fanin = shape
    lost = frozenset(index for index in lost if index < count)
    tree = ReduceTree(count, fanin, budget=TokenBudget(budget, len) if budget else None)
    result, calls = run(tree, answers(count, lost), order=order, failing=failing, rejected_above=rejected_above)
    assert result.text.split() == [f"<{i}>" for i in range(count) if i not in lost]
    assert [leaf.index for leaf in result.lost] == sorted(lost)
    assert result.leaves == count
    assert result.calls == count + len(calls)
    assert result.success == (not lost and SEPARATOR not in result.text)
    assert (result.error is None) == result.success
    for call in calls:
        assert 2 <= len(call.texts) <= fanin
        assert budget is None or sum(len(SEPARATOR + text) for text in call.texts) <= budget


@given(shapes, sets_of_leaves, groups, budgets)
def test_the_tree_does_not_depend_on_the_order_of_answers(
    shape: tuple[int, int], lost: frozenset[int], failing: frozenset[tuple[int, int]], budget: int | None
) -> None:
    count, fanin = shape
    runs = [
        run(
            ReduceTree(count, fanin, budget=TokenBudget(budget, len) if budget else None),
            answers(count, lost),
            order=random.Random(seed),
            failing=failing,
        )
        for seed in (1, 2)
    ]
    (first, first_calls), (second, second_calls) = runs
    assert first == second
    assert set(first_calls) == set(second_calls)


@given(shapes)
def test_groups_are_even_and_the_tree_as_low_as_can_be(shape: tuple[int, int]) -> None:
    count, fanin = shape
    result, calls = run(ReduceTree(count, fanin), answers(count), order=random.Random(0))
    assert fanin ** (result.levels - 1) < count <= fanin**result.levels
    sizes = [len(call.texts) for call in calls if call.level == 1]
    groups = -(-count // fanin)
    assert all(size in {count // groups, -(-count // groups)} for size in sizes)


def test_a_group_is_due_as_soon_as_its_own_leaves_are_in() -> None:
    tree = ReduceTree(9, 3)
    assert tree.leaf_done(7, Response(True, "h")) == []
    assert tree.leaf_done(8, Response(True, "i")) == []
    assert tree.leaf_done(6, Response(True, "g")) == [ReduceCall(1, ("g", "h", "i"), group=2, part=0)]


def test_a_single_leaf_needs_no_reduction() -> None:
    tree = ReduceTree(1, 8)
    assert tree.leaf_done(0, Response(True, "only", prompt_tokens=5, completion_tokens=2)) == []
    assert tree.result() == ReduceResult(True, "only", None, 1, (), 0, 1, 5, 2)


def test_lost_leaves_are_named_and_the_result_is_no_success() -> None:
    result, _ = run(ReduceTree(5, 8), answers(5, frozenset({3, 1})), order=random.Random(0))
    assert not result.success
    assert result.text == "<0> <2> <4>"
    assert result.lost == (
        LostLeaf(1, "leaf 1", "leaf 1 broke", "exhausted"),
        LostLeaf(3, "leaf 3", "leaf 3 broke", "exhausted"),
    )
    assert result.error == "2 of 5 leaves lost (leaf 1: leaf 1 broke; leaf 3: leaf 3 broke)"


def test_all_leaves_lost() -> None:
    result, calls = run(ReduceTree(20, 4), answers(20, frozenset(range(20))), order=random.Random(0))
    assert calls == []
    assert (result.success, result.text, len(result.lost), result.levels) == (False, "", 20, 3)
    assert result.error is not None
    assert result.error.startswith("20 of 20 leaves lost (leaf 0: ")
    assert result.error.endswith("; ...)")


def test_the_only_text_of_a_group_is_handed_up_as_it_is() -> None:
    result, calls = run(ReduceTree(4, 2), answers(4, frozenset({1})), order=random.Random(0))
    assert [(call.level, call.texts) for call in sorted(calls, key=lambda call: call.level)] == [
        (1, ("<2>", "<3>")),
        (2, ("<0>", "<2> <3>")),
    ]
    assert result.text == "<0> <2> <3>"


def test_a_failed_reduce_call_is_tried_again() -> None:
    tree = ReduceTree(2, 2)
    tree.leaf_done(0, Response(True, "a"))
    [call] = tree.leaf_done(1, Response(True, "b"))
    [again] = tree.call_done(call, failed())
    assert (again.texts, again.attempt) == (("a", "b"), 2)
    assert tree.call_done(again, Response(True, "ab")) == []
    assert (tree.result().text, tree.result().calls) == ("ab", 4)


def test_the_texts_of_a_call_that_fails_for_good_are_merged_one_level_up() -> None:
    result, calls = run(ReduceTree(4, 2), answers(4), order=random.Random(0), failing=frozenset({(1, 0)}))
    assert result.success
    assert result.text.split() == ["<0>", "<1>", "<2>", "<3>"]
    assert [call.attempt for call in calls if (call.level, call.group) == (1, 0)] == [1, 2]
    # Three texts are more than the fanin: the root merges them in two rounds.
    assert [call.texts for call in calls if call.level == 2] == [("<0>", "<1>"), ("<0> <1>", "<2> <3>")]


def test_a_root_that_fails_for_good_leaves_its_texts_unmerged() -> None:
    result, _ = run(ReduceTree(4, 2), answers(4), order=random.Random(0), failing=frozenset({(2, 0)}))
    assert not result.success
    assert result.text == "<0> <1>\n\n<2> <3>"
    assert result.error == "2 texts are left unmerged (a reduce call of level 2 failed: 500: broken)"


def test_a_group_that_does_not_fit_is_merged_in_parts() -> None:
    budget = TokenBudget(2 * len(SEPARATOR + "<0>"), len)
    tree = ReduceTree(4, 4, budget=budget)
    calls = [call for index, leaf in enumerate(answers(4)) for call in tree.leaf_done(index, leaf)]
    assert [(call.level, call.texts) for call in calls] == [(1, ("<0>", "<1>")), (1, ("<2>", "<3>"))]
    assert tree.call_done(calls[1], Response(True, "B")) == []
    assert tree.call_done(calls[0], Response(True, "A")) == [ReduceCall(1, ("A", "B"), group=0, part=0)]


def test_a_call_that_the_server_refuses_is_split_not_repeated() -> None:
    result, calls = run(ReduceTree(6, 6), answers(6), order=random.Random(0), rejected_above=3)
    assert [len(call.texts) for call in calls] == [6, 3, 3, 2]
    assert result.success


def test_texts_too_long_for_any_pair_are_left_unmerged() -> None:
    result, calls = run(ReduceTree(3, 3, budget=TokenBudget(4, len)), answers(3), order=random.Random(0))
    assert calls == []
    assert result.error == "3 texts are left unmerged (no two of them fit into one reduce prompt)"


def test_on_level_sees_each_level_complete_and_in_order() -> None:
    seen: list[tuple[int, list[str]]] = []
    tree = ReduceTree(4, 2, on_level=lambda level, texts: seen.append((level, list(texts))))
    run(tree, answers(4, frozenset({0})), order=random.Random(5))
    assert seen == [(0, ["<1>", "<2>", "<3>"]), (1, ["<1>", "<2> <3>"]), (2, ["<1> <2> <3>"])]


@pytest.mark.parametrize("fanin", [1, 0, -3])
def test_a_fanin_that_would_never_end_is_refused(fanin: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 2, got {fanin}"):
        ReduceTree(10, fanin)


def test_nothing_to_reduce_is_refused() -> None:
    with pytest.raises(ConfigError, match="no items"):
        ReduceTree(0, 8)
