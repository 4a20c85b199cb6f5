"""Log-probabilities of simulated tokens: made up, but the same each time, and in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aurora_pool.testing import tokenizer


def candidates(token: int, position: int, count: int) -> list[tuple[int, float]]:
    """Give the chosen token with its log-probability, then ``count`` - 1 less likely ones."""
    best = -((token * 31 + position * 17) % 97 + 1) / 64
    others = [
        (tokenizer.WORD_IDS[(token + step) % len(tokenizer.WORD_IDS)], best - 0.5 * step) for step in range(1, count)
    ]
    return [(token, best), *(pair for pair in others if pair[0] != token)]


def completion_logprobs(
    ids: Sequence[int], count: int, *, offset: int = 0, first_is_none: bool = False, as_ids: bool = False
) -> dict[str, list[Any]]:
    """Make the ``logprobs`` of a completion's choice; with echo, nothing is known of the very first token."""
    tokens = [_name(token, as_ids=as_ids) for token in ids]
    offsets: list[int] = []
    chosen: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    for position, token in enumerate(ids):
        offsets.append(offset)
        offset += len(tokens[position])
        if first_is_none and position == 0:
            chosen.append(None)
            tops.append(None)
            continue
        found = candidates(token, position, max(1, count))
        chosen.append(found[0][1])
        tops.append({_name(other, as_ids=as_ids): value for other, value in found})
    return {"text_offset": offsets, "token_logprobs": chosen, "tokens": tokens, "top_logprobs": tops}


def prompt_logprobs(ids: Sequence[int], count: int) -> list[dict[str, Any] | None]:
    """Make the ``prompt_logprobs`` of a choice: one mapping by token id for each token but the first."""
    return [
        None
        if position == 0
        else {
            str(other): {"logprob": value, "rank": rank, "decoded_token": tokenizer.decode((other,))}
            for rank, (other, value) in enumerate(candidates(token, position, max(1, count)), start=1)
        }
        for position, token in enumerate(ids)
    ]


def chat_logprobs(ids: Sequence[int], count: int) -> dict[str, Any]:
    """Make the ``logprobs`` of a chat's choice."""
    content = []
    for position, token in enumerate(ids):
        found = [_chat_entry(other, value) for other, value in candidates(token, position, max(1, count))]
        content.append({**found[0], "top_logprobs": found[:count]})
    return {"content": content}


def _chat_entry(token: int, value: float) -> dict[str, Any]:
    data = tokenizer.decode_bytes((token,))
    return {"token": data.decode("utf-8", "replace"), "logprob": value, "bytes": list(data)}


def _name(token: int, *, as_ids: bool) -> str:
    return f"token_id:{token}" if as_ids else tokenizer.decode((token,))
