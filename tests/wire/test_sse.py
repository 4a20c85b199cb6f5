"""The event splitter gives the same events however the bytes are cut."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.wire.sse import DONE, EventSplitter

payloads = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1), max_size=8
)


def split(stream: bytes, cuts: list[int]) -> tuple[list[bytes], list[bytes]]:
    splitter = EventSplitter()
    events: list[bytes] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        events += splitter.feed(stream[start:end])
    return events, splitter.end()


@given(payloads, st.lists(st.integers(0, 10_000)), st.sampled_from(["\n", "\r\n"]))
def test_the_same_events_however_the_bytes_are_cut(texts: list[str], cuts: list[int], newline: str) -> None:
    expected = [f"{{{text}}}".encode() for text in texts]
    stream = b"".join(b"data: %b\n\n" % data for data in [*expected, DONE]).replace(b"\n", newline.encode())
    assert split(stream, cuts) == ([*expected, DONE], [])


@given(payloads, st.lists(st.integers(0, 10_000)))
def test_comments_are_skipped_wherever_they_stand(texts: list[str], cuts: list[int]) -> None:
    expected = [f"{{{text}}}".encode() for text in texts]
    stream = b"".join(b": keep-alive\n\ndata: %b\n\n" % data for data in expected) + b": keep-alive\n\n"
    assert split(stream, cuts) == (expected, [])


def test_an_event_of_three_megabytes_in_small_chunks_is_one_event() -> None:
    data = b'{"text":"' + b"x" * 3_000_000 + b'"}'
    stream = b"data: " + data + b"\n\n"
    splitter = EventSplitter()
    events = [event for at in range(0, len(stream), 1000) for event in splitter.feed(stream[at : at + 1000])]
    assert events == [data]


def test_a_stream_that_ends_inside_an_event_gives_what_there_is_of_it() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b'data: {"a":1}\n\ndata: {"b"') == [b'{"a":1}']
    assert splitter.end() == [b'{"b"']


def test_a_stream_may_leave_out_the_space_after_the_colon() -> None:
    assert EventSplitter().feed(b"data:[DONE]\n\n") == [DONE]


def test_the_empty_line_may_come_in_pieces_of_its_own() -> None:
    splitter = EventSplitter()
    fed = [splitter.feed(piece) for piece in (b"data: 1", b"\r", b"\n", b"\r", b"\n", b"data: 2\n", b"\n")]
    assert [event for events in fed for event in events] == [b"1", b"2"]


def test_other_lines_of_an_event_are_skipped() -> None:
    stream = b': keep-alive\nevent: message\ndata: {"a":1}\nid: 7\n\nevent: ping\n\n: data: none\n\n'
    assert EventSplitter().feed(stream) == [b'{"a":1}']


def test_data_on_several_lines_is_joined_by_newlines() -> None:
    assert EventSplitter().feed(b'data: {"a":\ndata: 1}\n\n') == [b'{"a":\n1}']
