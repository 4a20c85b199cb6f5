"""Records of a job's output: one line of OpenAI Batch output per request, written and read back. Pure.

An answered request::

    {"id": "batch_req_<digest>", "custom_id": "a", "error": null, "aurora_pool": {"request": "<digest>", ...},
     "response": {"status_code": 200, "request_id": "<digest>", "body": {a completion or chat.completion}}}

A failed one has ``"response": null`` and ``"error": {"code": "rejected", "message": "400: ..."}``; the code is one of
:data:`~aurora_pool.messages.ErrorKind`. An answer that would not do (``invalid``,
``length``) has both. ``vllm run-batch`` writes the same shape; ``aurora_pool`` is this
package's own key in it, which tells a later run what had been asked, and of whom; its last key is a checksum.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from zlib import crc32

import msgspec

from aurora_pool.jobs.requests import Request
from aurora_pool.messages import Logprobs, Response, Sample

_ENCODE = msgspec.json.Encoder(enc_hook=str).encode
_WITH_TEXT = frozenset({"invalid", "length"})
BEGINNING = b'{"id":"batch_req_'
"""What every record of this package begins with."""

_SEAL = b',"crc32":"'
_SEALED = len(_SEAL) + 8 + len(b'"}}')
_OWN = b',"aurora_pool":{'


def request_key(digest: int, model: str) -> int:
    """Identify a request together with the model that is asked: 64 bits, the same in every process."""
    # The model is mixed in apart from the digest because it may be known only once the fleet answers.
    return digest ^ _digest_of(model)


@lru_cache(maxsize=8)
def _digest_of(model: str) -> int:
    return int.from_bytes(blake2b(model.encode(), digest_size=8).digest(), "big")


def encode_record(
    request: Request,
    response: Response,
    *,
    model: str,
    created: int,
    agent: str | None,
    row: dict[str, Any] | None = None,
) -> bytes:
    """Write the record of one request, as a line with its end.

    ``created`` is the time in seconds since 1970, ``agent`` the address of the agent that answered, ``row`` what is
    kept of the input's row.
    """
    key = f"{request_key(request.digest, model):016x}"
    reply = None
    error = None
    if response.success or response.error_kind in _WITH_TEXT:
        if request.embedding:
            body = _embedding(response)
        else:
            body = _chat(response, key) if request.chat else _completion(response, key)
            body["created"] = created
        body["model"], body["usage"] = model, _usage(response)
        reply = {"status_code": 200, "request_id": key, "body": body}
    if not response.success:
        error = {"code": response.error_kind, "message": response.error}
    own: dict[str, Any] = {"request": key, "agent": agent}
    if row is not None:
        own["row"] = row
    record = {
        "id": f"batch_req_{key}",
        "custom_id": request.id,
        "response": reply,
        "error": error,
        "aurora_pool": own,
    }
    return _sealed(record)


def renamed_record(line: bytes, name: str) -> bytes:
    """Give a record of this package another id."""
    record = msgspec.json.decode(line)
    record["custom_id"] = name
    record["aurora_pool"].pop("crc32", None)
    return _sealed(record)


def _sealed(record: dict[str, Any]) -> bytes:
    """Write a record, whose last key is ``aurora_pool``, with a checksum of everything before the checksum."""
    text = _ENCODE(record)[:-2]
    return b'%b%b%08x"}}\n' % (text, _SEAL, crc32(text))


def is_intact(line: bytes) -> bool:
    r"""Tell whether a record is unchanged since it was written, as far as it says: others' records carry no checksum.

    >>> line = b'{"custom_id":"a","aurora_pool":{"request":"0"'
    >>> is_intact(b'%b,"crc32":"%08x"}}\n' % (line, crc32(line))), is_intact(line + b',"crc32":"00000000"}}')
    (True, False)
    """
    text = line.rstrip()
    seal = text[-_SEALED:]
    if not seal.startswith(_SEAL):
        return True
    return seal[len(_SEAL) :] == b'%08x"}}' % crc32(text[:-_SEALED])


def plain_record(line: bytes) -> bytes | None:
    r"""Give a record of this package, a whole line, without what is only this package's; None for another's.

    >>> line = b'{"custom_id":"a","error":null,"aurora_pool":{"request":"0"'
    >>> plain_record(b'%b,"crc32":"%08x"}}\n' % (line, crc32(line)))
    b'{"custom_id":"a","error":null}\n'
    """
    if line[-_SEALED - 1 :].startswith(_SEAL) and line.endswith(b"\n"):
        return line[: line.rindex(_OWN)] + b"}\n"  # the last key, and no string can hold such quotes
    return None


class _Status(msgspec.Struct, gc=False):
    status_code: int = 0


class _Own(msgspec.Struct, gc=False):
    request: str


class Seen(msgspec.Struct, frozen=True):
    """What a record says of its request."""

    custom_id: str
    response: _Status | None = None
    error: Any = None
    aurora_pool: _Own | None = None

    @property
    def key(self) -> int | None:
        """What was asked, as :func:`request_key` tells it; None in a record that another program wrote."""
        if self.aurora_pool is None:
            return None
        try:
            return int(self.aurora_pool.request, 16)
        except ValueError:
            return -1  # the key of no request

    @property
    def answered(self) -> bool:
        """Whether there is an answer."""
        return self.error is None and self.response is not None and self.response.status_code == 200


_DECODE = msgspec.json.Decoder(Seen).decode


def decode_record(line: bytes) -> Seen | None:
    r"""Read a record back; None for what is damaged, and for what has neither a response nor an error.

    >>> seen = decode_record(b'{"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": null}')
    >>> seen.custom_id, seen.key, seen.answered
    ('a', None, True)
    >>> decode_record(b'{"custom_id": "a", "respo\n')
    """
    try:
        seen = _DECODE(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if (seen.response is None and seen.error is None) or not is_intact(line):
        return None
    return seen


def _samples(response: Response) -> tuple[Sample, ...]:
    if response.samples:
        return response.samples
    one = Sample(response.text, response.finish_reason, response.reasoning, response.logprobs, response.token_ids)
    return (one,)


def _completion(response: Response, key: str) -> dict[str, Any]:
    choices = []
    for index, sample in enumerate(_samples(response)):
        choice: dict[str, Any] = {
            "index": index,
            "text": sample.text,
            "logprobs": None if sample.logprobs is None else _completion_logprobs(sample.logprobs),
            "finish_reason": sample.finish_reason,
        }
        if sample.token_ids is not None:
            choice["token_ids"] = sample.token_ids
        if response.prompt_token_ids is not None:
            choice["prompt_token_ids"] = response.prompt_token_ids
        if response.prompt_logprobs is not None:
            choice["prompt_logprobs"] = response.prompt_logprobs
        choices.append(choice)
    return {"id": f"cmpl-{key}", "object": "text_completion", "choices": choices}


def _chat(response: Response, key: str) -> dict[str, Any]:
    choices = []
    for index, sample in enumerate(_samples(response)):
        message: dict[str, Any] = {"role": "assistant", "content": sample.text, "refusal": None}
        if sample.reasoning is not None:
            message["reasoning"] = sample.reasoning
        if index == 0 and response.tool_calls:
            message["tool_calls"] = response.tool_calls
        choice: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": None if sample.logprobs is None else _chat_logprobs(sample.logprobs),
            "finish_reason": sample.finish_reason,
        }
        if sample.token_ids is not None:
            choice["token_ids"] = sample.token_ids
        choices.append(choice)
    body: dict[str, Any] = {"id": f"chatcmpl-{key}", "object": "chat.completion", "choices": choices}
    if response.prompt_token_ids is not None:
        body["prompt_token_ids"] = response.prompt_token_ids
    if response.prompt_logprobs is not None:
        body["prompt_logprobs"] = response.prompt_logprobs
    return body


def _embedding(response: Response) -> dict[str, Any]:
    vector = response.embedding or []
    if isinstance(vector, bytes):
        vector = list(struct.unpack(f"<{len(vector) // 4}f", vector))
    return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": vector}]}


def _usage(response: Response) -> dict[str, int] | None:
    if response.prompt_tokens is None:
        return None
    if response.embedding is not None:
        return {"prompt_tokens": response.prompt_tokens, "total_tokens": response.prompt_tokens}
    if response.completion_tokens is None:
        return None
    return {
        "prompt_tokens": response.prompt_tokens,
        "completion_tokens": response.completion_tokens,
        "total_tokens": response.prompt_tokens + response.completion_tokens,
    }


def _completion_logprobs(logprobs: Logprobs) -> dict[str, Any]:
    offsets = []
    offset = 0
    for token in logprobs.tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "text_offset": offsets,
        "tokens": logprobs.tokens,
        "token_logprobs": logprobs.token_logprobs,
        "top_logprobs": logprobs.top,
    }


def _chat_logprobs(logprobs: Logprobs) -> dict[str, Any]:
    rows = zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top, strict=True)
    content = [
        {**_chat_token(token, logprob), "top_logprobs": [_chat_token(*pair) for pair in (top or {}).items()]}
        for token, logprob, top in rows
    ]
    return {"content": content, "refusal": None}


def _chat_token(token: str, logprob: float | None) -> dict[str, Any]:
    # -9999.0 is how the API writes a probability of nothing; JSON has no infinity.
    return {"token": token, "bytes": list(token.encode()), "logprob": -9999.0 if logprob is None else logprob}
