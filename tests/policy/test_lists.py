"""Prompts travel together where they can."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.policy.lists import form_lists
from aurora_pool.policy.work import LIST_LIMIT, Lane, Ticket

LANE = Lane(range(1))


def tickets(count: int, *, batch: object = "batch", room: int = 0, limit: int = LIST_LIMIT) -> list[Ticket]:
    return [Ticket(LANE, index, batch, None, room, limit) for index in range(count)]


def test_one_batch_is_one_request() -> None:
    assert [len(group) for group in form_lists(tickets(272))] == [272]


def test_no_request_is_longer_than_servers_take() -> None:
    assert [len(group) for group in form_lists(tickets(2500))] == [1024, 1024, 452]
    assert [len(group) for group in form_lists(tickets(5, limit=2))] == [2, 2, 1]


def test_conversations_go_alone() -> None:
    assert [len(group) for group in form_lists(tickets(3, limit=1))] == [1, 1, 1]


def test_different_batches_travel_apart() -> None:
    mixed = [ticket for pair in zip(tickets(3, batch="a"), tickets(3, batch="b"), strict=True) for ticket in pair]
    assert [[ticket.batch for ticket in group] for group in form_lists(mixed)] == [["a"] * 3, ["b"] * 3]


@given(rooms=st.lists(st.integers(1, 4000), min_size=1, max_size=60), limit=st.integers(2, 20))
def test_no_answer_is_cut_to_less_than_half_its_room(rooms: list[int], limit: int) -> None:
    all_tickets = [Ticket(LANE, index, "batch", None, room, limit) for index, room in enumerate(rooms)]
    lists = form_lists(all_tickets)
    assert sorted(ticket.index for group in lists for ticket in group) == list(range(len(rooms)))
    for group in lists:
        assert len(group) <= limit
        assert 2 * min(ticket.room for ticket in group) >= max(ticket.room for ticket in group)
        assert [ticket.index for ticket in group] == sorted(ticket.index for ticket in group)
