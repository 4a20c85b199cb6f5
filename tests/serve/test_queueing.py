"""Which batch begins next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.serve.queueing import FairQueue, Running, Share, Waiting


def waiting(user: str, seq: int, *, priority: int = 0, cost: int = 1, expires_at: float = 0.0) -> Waiting:
    return Waiting(f"{user}{seq}", user, priority, expires_at, cost, seq)


def order(each: list[Waiting], shares: dict[str, Share] | None = None) -> list[str]:
    """Begin everything, one after the other."""
    queue, left, begun = FairQueue(), list(each), []
    while left:
        chosen = queue.choose(left, {}, shares or {})
        assert chosen is not None
        left.remove(chosen)
        begun.append(chosen.id)
    return begun


def test_users_take_turns_however_many_batches_they_have() -> None:
    many = [waiting("ann", seq) for seq in range(100)] + [waiting("bob", 100), waiting("bob", 101)]
    assert {name[:3] for name in order(many)[:2]} == {"ann", "bob"}
    assert order(many).index("bob101") <= 4


def test_priority_goes_first_then_deadline_then_age() -> None:
    each = [
        waiting("ann", 1, expires_at=9.0),
        waiting("ann", 2, expires_at=5.0),
        waiting("ann", 3, expires_at=9.0),
        waiting("ann", 4, priority=1, expires_at=99.0),
    ]
    assert order(each) == ["ann4", "ann2", "ann1", "ann3"]


def test_shares_are_of_requests_by_weight() -> None:
    each = [waiting("ann", seq, cost=10) for seq in range(60)]
    each += [waiting("bob", 100 + seq, cost=20) for seq in range(60)]
    begun = order(each, {"bob": Share(weight=2.0)})[:60]
    assert Counter(name[:3] for name in begun) == {"ann": 30, "bob": 30}


def test_a_user_who_comes_late_has_saved_up_nothing() -> None:
    queue = FairQueue()
    ann = [waiting("ann", seq) for seq in range(50)]
    for _ in range(40):
        queue.choose(ann, {}, {})
    both = [*ann, *(waiting("bob", 100 + seq) for seq in range(50))]
    begun = [queue.choose(both, {}, {}) for _ in range(20)]
    assert Counter(each.user for each in begun if each is not None)["bob"] in (10, 11)


def test_a_limit_on_running_batches_lets_others_pass() -> None:
    each = [waiting("ann", 1), waiting("bob", 2)]
    chosen = FairQueue().choose(each, {"ann": Running(1)}, {"ann": Share(running=1)})
    assert chosen is not None
    assert chosen.user == "bob"
    assert FairQueue().choose(each[:1], {"ann": Running(1)}, {"ann": Share(running=1)}) is None
    assert FairQueue().choose([], {}, {}) is None


def test_without_tokens_only_what_is_answered_begins() -> None:
    each = [waiting("ann", 1), Waiting("answered", "ann", 0, 0.0, 1, 2, answered=True)]
    chosen = FairQueue().choose(each, {}, {"ann": Share(spent=True)})
    assert chosen is not None
    assert chosen.id == "answered"
    assert FairQueue().choose(each[:1], {}, {"ann": Share(spent=True)}) is None


def test_where_it_is_crowded_only_users_begin_who_have_nothing_of_that_priority_running() -> None:
    running = {"ann": Running(8, priority=0)}
    ann, urgent, bob = waiting("ann", 1), waiting("ann", 2, priority=1), waiting("bob", 3)

    def chosen(*each: Waiting) -> str | None:
        found = FairQueue().choose(each, running, {}, crowded=True)
        return None if found is None else found.id

    assert chosen(ann, bob) == "bob3"
    assert chosen(ann, urgent) == "ann2"
    assert chosen(ann) is None


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 50), st.integers(-2, 2)), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 10.0)),
)
def test_everything_begins_once(each: list[tuple[str, int, int]], weights: dict[str, float]) -> None:
    created = [waiting(user, seq, cost=cost, priority=priority) for seq, (user, cost, priority) in enumerate(each)]
    begun = order(created, {user: Share(weight) for user, weight in weights.items()})
    assert sorted(begun) == sorted(one.id for one in created)
