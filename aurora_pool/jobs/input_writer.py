"""Requests from Python, turned into the lines of an input file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO, Any

import msgspec

from aurora_pool.arguments import shown
from aurora_pool.errors import ConfigError
from aurora_pool.messages import AnyPrompt, Prompt

_encode = msgspec.json.Encoder().encode


def write_requests(requests: Iterable[AnyPrompt | Mapping[str, Any]], file: IO[bytes]) -> None:
    r"""Write one line per request: a prompt of any kind, or an object such as a line of an input file holds.

    >>> import io
    >>> file = io.BytesIO()
    >>> write_requests(["Hi", {"custom_id": "a", "prompt": "Ho"}, Prompt("Hu", max_tokens=4)], file)
    >>> file.getvalue().decode().splitlines()
    ['{"prompt":"Hi"}', '{"custom_id":"a","prompt":"Ho"}', '{"prompt":"Hu","max_tokens":4}']

    Raises :class:`~aurora_pool.errors.ConfigError` for anything else.
    """
    for number, request in enumerate(requests, start=1):
        try:
            file.write(_encode(_fields(request)) + b"\n")
        except ConfigError as error:
            raise ConfigError(f"request {number}: {error}") from None
        except (TypeError, msgspec.EncodeError) as error:
            raise ConfigError(f"request {number} can't be written as JSON: {error}") from error


def _fields(request: AnyPrompt | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(request, Mapping):
        return dict(request)
    prompt = request if isinstance(request, Prompt) else Prompt(request)
    if isinstance(prompt.content, bytes | bytearray) or not isinstance(prompt.content, Iterable):
        raise ConfigError(f"expected text, token ids, messages, a Prompt or a mapping, got {shown(request)}")
    fields: dict[str, Any] = {}
    if isinstance(prompt.content, str) or all(isinstance(part, int) for part in prompt.content):
        fields["prompt"] = prompt.content
    else:
        fields["messages"] = prompt.content
    if prompt.max_tokens is not None:
        fields["max_tokens"] = prompt.max_tokens
    if prompt.sampling is not None:
        sampling = {key: value for key, value in msgspec.to_builtins(prompt.sampling).items() if value is not None}
        extra = sampling.pop("extra", {})
        if "messages" in fields and "logprobs" in sampling:
            sampling["logprobs"], sampling["top_logprobs"] = True, sampling["logprobs"]
        fields |= sampling | extra
    return fields
