"""Valid replies, made invalid in one or two places by a seeded hand.

Texts carry their prompt's digest in every piece. What no reader can notice is left alone: the bytes of a text, a piece
that is lost or comes twice without a count that says so, an end that comes too early.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import re
from collections.abc import Callable
from typing import Any

import msgspec

from tests.hostile.odd_server import Asked, http, sse

ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 10**15, 2**63, 1e300, -0.5, "", "x", "0", [], {}, [[]], [None], {"a": {}}, "\u00e9" * 50,
]  # fmt: skip
GARBAGE = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 3000, b'{"x":' * 3000, b": comment\n", b"data:\n\n", b"\r",
    b"\n\n", b"data: null\n\n", b"event: x\n", b"NaN", b"data: [DONE]\n\n", b"HTTP/1.1 200 OK\r\n\r\n", b"<html>",
    b'{"error":1}',
]  # fmt: skip
_PIECE = re.compile(rb"[AB]<[0-9a-f]{16}>")


def digest(prompt: Any) -> str:
    """What every piece of the answer to a prompt holds."""
    return hashlib.sha256(str(prompt).encode()).hexdigest()[:16]


def right_text(prompt: Any) -> str:
    """The whole answer to a prompt."""
    return f"A<{digest(prompt)}>B<{digest(prompt)}>"


def values(asked: Asked) -> list[Any]:
    """A valid reply, as the values of its events, or as one value where it is not streamed."""
    if asked.path == "/v1/models":
        return [{"object": "list", "data": [{"id": "m", "root": "m", "parent": None, "max_model_len": 4096}]}]
    if asked.path == "/tokenize":
        return [{"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3]}]
    if asked.path == "/v1/embeddings":
        data = [{"index": i, "embedding": [float(i)] * 4} for i, _ in enumerate(asked.prompts)]
        return [{"object": "list", "model": "m", "data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}]
    chat = "chat" in asked.path
    usage = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
    if not asked.body.get("stream"):
        texts = [right_text(prompt) for prompt in asked.prompts]
        choices = [
            {
                "index": i,
                **({"message": {"role": "assistant", "content": t}} if chat else {"text": t}),
                "finish_reason": "stop",
            }
            for i, t in enumerate(texts)
        ]
        return [{"id": "c", "model": "m", "choices": choices, "usage": usage}]
    events = []
    for piece, reason in (("A", None), ("B", "stop")):
        for index, prompt in enumerate(asked.prompts):
            text = f"{piece}<{digest(prompt)}>"
            part = {"delta": {"content": text}} if chat else {"text": text}
            choice = {"index": index, **part, "logprobs": None, "finish_reason": reason}
            events.append({"id": "c", "model": "m", "choices": [choice], "usage": usage})
    return [*events, {"id": "c", "choices": [], "usage": usage}]


def valid(asked: Asked) -> bytes:
    """A valid reply."""
    return _written(values(asked), asked)


def mutated(asked: Asked, rng: random.Random) -> tuple[bytes, bool]:
    """A reply with something wrong; and whether the connection is to be cut after it."""
    if asked.path == "/metrics":
        number = rng.choice(["NaN", "abc", "-1", "1e999", "", "7", "0x1", "9" * 400])
        return http(f"vllm:num_requests_running {number}\n".encode(), content_type="text/plain"), False
    if rng.random() < 0.1:
        message: Any = rng.choice(["no", "x" * 5000, None, ["a"], {"b": []}])
        error = {"error": rng.choice([{"message": message, "code": rng.choice([500, 503, "x", 10**9])}, message])}
        return http(msgspec.json.encode(error), rng.choice([200, 204, 301, 404, 409, 429, 500, 502, 503])), False
    found = values(asked)
    if rng.random() < 0.6:
        _mutate_value(found, asked, rng)
    reply = _written(found, asked)
    head, _, body = reply.partition(b"\r\n\r\n")
    if rng.random() < 0.6:
        body = rng.choice(_BYTES)(body, rng)
    if rng.random() < 0.1:
        body = gzip.compress(body)
        head += b"\r\nContent-Encoding: " + rng.choice([b"gzip", b"GZIP", b"deflate", b"br", b"x"])
    if rng.random() < 0.2:
        kind = rng.choice([b"text/html", b"text/event-stream", b"application/json", b"TEXT/EVENT-STREAM", b""])
        head = re.sub(rb"(?i)content-type: [^\r]*", b"Content-Type: " + kind, head)
    length = len(body) if rng.random() < 0.9 else rng.choice([0, len(body) // 2, len(body) + 7])
    head = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % length, head)
    return head + b"\r\n\r\n" + body, length != len(body) or rng.random() < 0.1


def _written(found: list[Any], asked: Asked) -> bytes:
    if isinstance(asked.body, dict) and asked.body.get("stream"):
        return http(sse(*found, b"[DONE]"), content_type="text/event-stream")
    return http(msgspec.json.encode(found[0]))


def _mutate_value(found: list[Any], asked: Asked, rng: random.Random) -> None:
    """Change one value somewhere, or all indices alike; never a text, nor what ends it."""
    if rng.random() < 0.2:
        factor, offset = rng.choice([(0, 0), (1, 1), (1, -1), (2, 0)])
        for event in found:
            for choice in event.get("choices") or event.get("data") or []:
                if "index" in choice and (len(asked.prompts) > 1 or offset):
                    choice["index"] = factor * choice["index"] + offset
        return
    places: list[tuple[Any, Any]] = []
    _collect(rng.choice(found), places)
    container, key = rng.choice(places)
    if isinstance(container, dict) and rng.random() < 0.3:
        del container[key]
    else:
        container[key] = rng.choice(
            [value for value in ODD_VALUES if key != "index" or type(value) is not int or value < 0 or value > 99]
        )


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        if key in ("text", "content", "finish_reason", "choices", "delta", "message", "embedding", "data"):
            if isinstance(value[key], list | dict):
                _collect(value[key], places)
            continue
        if not isinstance(value, list):
            places.append((value, key))
        if isinstance(value[key], list | dict):
            _collect(value[key], places)
    if not places:
        places.append(({"": 0}, ""))


def _insert(body: bytes, rng: random.Random) -> bytes:
    at = rng.choice([0, len(body), *(match.end() for match in re.finditer(rb"\n\n", body))])
    return body[:at] + rng.choice(GARBAGE) + body[at:]


def _flip(body: bytes, rng: random.Random) -> bytes:
    """Change a byte that belongs to no text, index or reason."""
    held = [match.span() for match in _PIECE.finditer(body)]
    held += [match.span() for match in re.finditer(rb'"(index|finish_reason|text|content)": ?("[^"]*"|[^,}\]]*)', body)]
    held += [match.span() for match in re.finditer(rb'"embedding":\[[^\]]*\]', body)]
    at = rng.randrange(len(body) or 1)
    if not body or any(start <= at < end for start, end in held):
        return body
    flipped = bytes([rng.randrange(256)])
    if flipped == b":" and body[at - 1 : at] in (b"\n", b""):
        return body  # a comment, which nobody can tell from one that is meant
    return body[:at] + flipped + body[at + 1 :]


def _cut(body: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _end_twice(body: bytes, rng: random.Random) -> bytes:
    events = body.split(b"\n\n")
    ends = [i for i, event in enumerate(events) if b'"finish_reason":"stop"' in event]
    if not ends or len(events) < 3:
        return body + body
    at = rng.choice(ends)
    return b"\n\n".join([*events[: at + 1], events[at], *events[at + 1 :]])


def _line_ends(body: bytes, rng: random.Random) -> bytes:
    return body.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\n"]))


_BYTES: list[Callable[[bytes, random.Random], bytes]] = [_insert, _flip, _cut, _end_twice, _line_ends]
