from __future__ import annotations

from itertools import pairwise

import pytest

from aurora_pool.errors import ConfigError
from aurora_pool.messages import Response
from aurora_pool.patterns.documents import Document
from aurora_pool.patterns.reduce import SPARE_TOKENS
from aurora_pool.patterns.summaries import summarize
from tests.patterns.fake_pool import FakePool, failed

LONG = Document("long.txt", "One two three. Four five six.\n\nSeven eight nine.")


def first_word(text: str) -> str:
    body = text.split("\n\n", 1)[1].removesuffix("\n\nSummary:")
    return " ".join(part.split()[0] for part in body.split("\n\n"))


async def test_documents_are_cut_summarised_and_merged_in_order() -> None:
    pool = FakePool(first_word)
    result = await summarize(pool, [LONG, "Alpha."], chunk_tokens=6, max_tokens=7)
    assert (result.success, result.text, result.leaves) == (True, "One Seven Alpha.", 3)
    assert 'Below is part 2 of 2 of "long.txt".' in pool.sent[1].content
    assert 'part 1 of 1 of "text 2"' in pool.sent[2].content
    assert [p.max_tokens for p in pool.sent] == [7, 7, 7, 99]


async def test_a_lost_chunk_is_named_by_document_and_part() -> None:
    pool = FakePool(lambda text: failed("connection lost") if "Seven" in text else first_word(text))
    result = await summarize(pool, [LONG], chunk_tokens=6)
    assert not result.success
    assert result.error == "1 of 2 leaves lost (long.txt, part 2 of 2: connection lost)"


async def test_chunks_fit_the_context_and_overlap() -> None:
    longest = 0

    def answer(text: str) -> Response | str:
        nonlocal longest
        longest = max(longest, len(text.split()))
        return "one two three four five"

    pool = FakePool(answer, context=100 + SPARE_TOKENS, max_tokens_aggregation=40)
    text = " ".join(f"Number {n} is here." for n in range(100))
    result = await summarize(pool, [text])
    assert result.success
    assert 40 < longest <= 60
    chunks = [str(p.content).split("\n\n")[1] for p in pool.sent if "Below is part" in str(p.content)]
    assert all(chunk.split(". ")[0] in before for before, chunk in pairwise(chunks))


@pytest.mark.parametrize(
    ("documents", "options", "match"),
    [
        ([], {}, "no text in the documents"),
        ([" \n\n "], {}, "no text in the documents"),
        (["a"], {"chunk_tokens": 90}, "chunk_tokens is 90, but the context has room for"),
        (["a"], {"chunk_tokens": 10, "overlap": 6}, "overlap: expected at most half"),
        (["a"], {"prompt": "Summarise."}, r"prompt has no \{item\}"),
        (["a"], {"reduce_prompt": "Merge."}, r"reduce_prompt has no \{responses\}"),
        (["a"], {"fanin": 1}, "at least 2"),
        (["a"], {"max_tokens": 100}, r"prompt is too long: .* no room for \{item\}"),
    ],
)
async def test_misuse_is_told_before_anything_is_sent(
    documents: list[str], options: dict[str, object], match: str
) -> None:
    pool = FakePool(str, context=100 + SPARE_TOKENS, max_tokens_aggregation=20)
    with pytest.raises(ConfigError, match=match):
        await summarize(pool, documents, **options)  # type: ignore[arg-type]  # misuse is the point
    assert pool.sent == []
