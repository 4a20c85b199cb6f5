"""Prompts made of a job's requests. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from aurora_pool.jobs.columns import UNSENT
from aurora_pool.jobs.requests import Request
from aurora_pool.messages import AnyPrompt, Content, Prompt, Sampling

_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "seed", "prompt_logprobs", "response_format")
_MOST_SAMPLINGS = 4096


class PromptMaker:
    """Makes prompts of requests; requests that are sampled alike share one :class:`~aurora_pool.messages.Sampling`."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(order="sorted").encode
        self._samplings: dict[bytes, Sampling] = {}

    def prompt(self, request: Request) -> Prompt:
        """Make the prompt of one request.

        >>> from aurora_pool.jobs.requests import RequestReader
        >>> request = RequestReader().read(b'{"prompt": "Hi", "max_tokens": 4, "min_p": 0.1}', 1)
        >>> prompt = PromptMaker().prompt(request)
        >>> prompt.content, prompt.max_tokens, prompt.sampling.extra
        ('Hi', 4, {'min_p': 0.1})
        """
        fields = dict(request.body)
        for name in UNSENT & fields.keys():
            del fields[name]
        content: Content
        if request.embedding:
            return Prompt(_only(fields["input"]))
        if request.chat:
            content = fields.pop("messages")
            max_tokens = fields.pop("max_tokens", None)
            max_tokens = fields.pop("max_completion_tokens", None) or max_tokens
        else:
            content = _only(fields.pop("prompt"))
            max_tokens = fields.pop("max_tokens", None)
        key = self._encode((request.chat, fields))
        sampling = self._samplings.get(key)
        if sampling is None:
            if len(self._samplings) >= _MOST_SAMPLINGS:
                self._samplings.clear()
            sampling = self._samplings[key] = _sampling(fields, chat=request.chat)
        return Prompt(content, sampling, max_tokens, "raw" if request.raw else None)


def asked(request: Request, prompt: Prompt) -> AnyPrompt:
    """Give what the pool is asked: an embedding has no sampling, so its text alone."""
    return prompt.content if request.embedding else prompt


def _only(prompt: Any) -> Content:
    """Take the one prompt out of a list that holds no other."""
    content: Content = prompt[0] if isinstance(prompt, list) and not isinstance(prompt[0], int) else prompt
    return content


def _sampling(fields: dict[str, Any], *, chat: bool) -> Sampling:
    """Make the sampling of a body without its prompt. Values of a wrong type are the server's to refuse."""
    known = {name: fields.pop(name) for name in _SAMPLING_FIELDS if name in fields}
    if chat:
        wanted, top = fields.pop("logprobs", None), fields.pop("top_logprobs", None)
        known["logprobs"] = (top or 0) if wanted else None
    else:
        known["logprobs"] = fields.pop("logprobs", None)
    stop = fields.pop("stop", None)
    known["stop"] = tuple(stop) if isinstance(stop, list) else stop
    known["n"] = fields.pop("n", None) or 1
    known["return_token_ids"] = bool(fields.pop("return_token_ids", False))
    return Sampling(**known, extra=fields)
