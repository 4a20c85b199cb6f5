"""Records of a job's output: one line of OpenAI Batch output per request, written and read back. Pure.

An answered request::

    {"id": "batch_req_<digest>", "custom_id": "a", "error": null, "aurora_pool": {"request": "<digest>", ...},
     "response": {"status_code": 200, "request_id": "<digest>", "body": {a completion or chat.completion}}}

A failed one has ``"response": null`` and ``"error": {"code": "rejected", "message": "400: ..."}``; the code is one of
:data:`~aurora_pool.messages.ErrorKind`. ``vllm run-batch`` writes the same shape; ``aurora_pool`` is this
package's own key in it, which tells a later run what had been asked, and of whom.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from aurora_pool.jobs.requests import Request
from aurora_pool.messages import Logprobs, Response, Sample

_ENCODE = msgspec.json.Encoder().encode


def request_key(digest: int, model: str) -> int:
    """Identify a request together with the model that is asked: 64 bits, the same in every process."""
    # The model is mixed in apart from the digest because it may be known only once the fleet answers.
    return digest ^ _digest_of(model)


@lru_cache(maxsize=8)
def _digest_of(model: str) -> int:
    return int.from_bytes(blake2b(model.encode(), digest_size=8).digest(), "big")


def encode_record(request: Request, response: Response, *, model: str, created: int, agent: str | None) -> bytes:
    """Write the record of one request, as a line with its end.

    ``created`` is the time in seconds since 1970, ``agent`` the address of the agent that answered.
    """
    key = f"{request_key(request.digest, model):016x}"
    reply = None
    error = None
    if response.success:
        body = _chat(response, key) if request.chat else _completion(response, key)
        body["created"], body["model"], body["usage"] = created, model, _usage(response)
        reply = {"status_code": 200, "request_id": key, "body": body}
    else:
        error = {"code": response.error_kind, "message": response.error}
    record = {
        "id": f"batch_req_{key}",
        "custom_id": request.id,
        "response": reply,
        "error": error,
        "aurora_pool": {"request": key, "agent": agent},
    }
    return _ENCODE(record) + b"\n"


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
    r"""Read a record back; None for what is no record, as it has neither a response nor an error.

    >>> seen = decode_record(b'{"custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": null}')
    >>> seen.custom_id, seen.key, seen.answered
    ('a', None, True)
    >>> decode_record(b'{"custom_id": "a", "respo\n')
    """
    try:
        seen = _DECODE(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if seen.response is None and seen.error is None else seen


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


def _usage(response: Response) -> dict[str, int] | None:
    if response.prompt_tokens is None or response.completion_tokens is None:
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
