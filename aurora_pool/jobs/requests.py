"""Lines of a job's input, read into requests: pure, one line at a time.

Three kinds of line are known:

- OpenAI Batch: ``{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hi"}}``;
- short: ``{"prompt": "Hi"}`` or ``{"messages": [...]}``, with any sampling fields and an ``id`` beside it;
- text: the line is the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import msgspec

from aurora_pool.errors import ConfigError
from aurora_pool.messages import Content, Prompt, Sampling
from aurora_pool.options import PromptFormat

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

InputFormat: TypeAlias = Literal["auto", "jsonl", "text"]

_SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "seed", "prompt_logprobs", "response_format")
_SELDOM = frozenset({"stream", "tools", "n", "max_completion_tokens"})
"""Fields that are looked at, and that hardly any line has."""
_MOST_SAMPLINGS = 4096
_HASHES = {
    (COMPLETIONS, True): blake2b(digest_size=8, person=b"completions"),
    (COMPLETIONS, False): blake2b(digest_size=8, person=b"auto"),
    (CHAT, False): blake2b(digest_size=8, person=b"chat"),
}
"""What digests begin with; copying one is quicker than making one."""


class RequestError(ValueError):
    """A line that can't be used; the text says why, and who reads the file adds where."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request of a job.

    ``body`` is what the line asks for with the job's defaults filled in, without the model. ``model`` is the model that
    the line names, after mapping. ``raw`` says that text is sent as it is, whatever the pool does with text. ``digest``
    (64 bits) stands for all of these but the model, however the line spells them.
    """

    id: str
    url: str
    body: dict[str, Any]
    model: str | None
    raw: bool
    digest: int

    @property
    def chat(self) -> bool:
        """Whether the request goes to ``/v1/chat/completions``."""
        return self.url == CHAT


_Parts: TypeAlias = tuple[str | None, str | None, dict[str, Any]]
"""A line's id, its url, and its body."""


class _Batch(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A good line of OpenAI Batch."""

    body: dict[str, Any]
    url: Literal["/v1/completions", "/v1/chat/completions"]
    custom_id: str | None = None
    method: Literal["POST"] = "POST"


class RequestReader:
    """Reads lines into requests.

    ``defaults`` are body fields for lines that do not have them, ``model_map`` maps model names in the input to those
    of the fleet. ``prompt_format`` is how short lines and lines of text are put: see :class:`PromptOptions`; lines that
    name a url are put as it puts them. ``system_prompt`` goes before what ``prompt_format="chat"`` makes a chat of.

    >>> reader = RequestReader(defaults={"temperature": 0})
    >>> reader.read(b'{"prompt": "Name a colour."}', 7)
    Request(id='line-7', url='/v1/completions', body={'prompt': 'Name a colour.', 'temperature': 0}, ...)
    """

    def __init__(
        self,
        *,
        text: bool = False,
        prompt_format: PromptFormat = "auto",
        system_prompt: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        model_map: Mapping[str, str] | None = None,
    ) -> None:
        self._text = text
        self._prompt_format = prompt_format
        self._system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
        self._defaults = dict(defaults or {})
        self._model_map = dict(model_map or {})
        self._decode = msgspec.json.Decoder().decode
        self._decode_batch = msgspec.json.Decoder(_Batch).decode
        self._encode = msgspec.json.Encoder(order="sorted").encode

    def read(self, line: bytes, number: int) -> Request:
        """Read one line, without its end. ``number`` names a request that has no id of its own: ``line-7``.

        Raises :class:`RequestError`.
        """
        name, url, body = self._text_line(line) if self._text else self._json_line(line)
        raw = url == COMPLETIONS
        if url is None:
            if self._prompt_format == "chat" and isinstance(body.get("prompt"), str):
                body["messages"] = [*self._system, {"role": "user", "content": body.pop("prompt")}]
            url = CHAT if "messages" in body else COMPLETIONS
            raw = url == COMPLETIONS and self._prompt_format == "raw"
        model = body.pop("model", None)
        if model is not None and not isinstance(model, str):
            raise RequestError("expected 'model' to be a string")
        for key, value in self._defaults.items():
            body.setdefault(key, value)
        _check_body(url, body)
        digest = _HASHES[url, raw].copy()
        digest.update(self._encode(body))
        return Request(
            name if name is not None else f"line-{number}",
            url,
            body,
            model if model is None else self._model_map.get(model, model),
            raw,
            int.from_bytes(digest.digest(), "big"),
        )

    def _text_line(self, line: bytes) -> _Parts:
        try:
            return None, None, {"prompt": line.decode()}
        except UnicodeDecodeError as error:
            raise RequestError(f"expected UTF-8 text: {error.reason} at byte {error.start + 1}") from None

    def _json_line(self, line: bytes) -> _Parts:
        if b'"body"' in line:
            # What is as it should be is not looked at key by key: that saves a fifth of the time of a whole pass.
            try:
                batch = self._decode_batch(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # it is read again below, to tell what is wrong
            else:
                return batch.custom_id, batch.url, batch.body
        try:
            fields = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(f"expected a JSON object: {error}") from None
        if not isinstance(fields, dict):
            raise RequestError("expected a JSON object")
        return _batch_line(fields) if "body" in fields or "url" in fields else _short_line(fields)


class PromptMaker:
    """Makes prompts of requests; requests that are sampled alike share one :class:`~aurora_pool.messages.Sampling`."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(order="sorted").encode
        self._samplings: dict[bytes, Sampling] = {}

    def prompt(self, request: Request) -> Prompt:
        """Make the prompt of one request.

        >>> request = RequestReader().read(b'{"prompt": "Hi", "max_tokens": 4, "min_p": 0.1}', 1)
        >>> prompt = PromptMaker().prompt(request)
        >>> prompt.content, prompt.max_tokens, prompt.sampling.extra
        ('Hi', 4, {'min_p': 0.1})
        """
        fields = dict(request.body)
        content: Content
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


def parse_model_map(pairs: list[str]) -> dict[str, str]:
    """Read ``old=new`` pairs.

    >>> parse_model_map(["gpt-4o-mini=meta-llama/Llama-3.1-8B-Instruct"])
    {'gpt-4o-mini': 'meta-llama/Llama-3.1-8B-Instruct'}

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    mapped: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not equals or not old or not new:
            raise ConfigError(f"expected a model map as old=new, got {pair!r}")
        if mapped.setdefault(old, new) != new:
            raise ConfigError(f"the model {old!r} is mapped twice, to {mapped[old]!r} and to {new!r}")
    return mapped


def _batch_line(fields: dict[str, Any]) -> _Parts:
    name = fields.pop("custom_id", None)
    method = fields.pop("method", "POST")
    url = fields.pop("url", None)
    body = fields.pop("body", None)
    if fields:
        raise RequestError(f"unknown key {min(fields)!r} beside 'body'; sampling fields belong into 'body'")
    if name is not None and not isinstance(name, str):
        raise RequestError("expected 'custom_id' to be a string")
    if method != "POST":
        raise RequestError(f"expected the method POST, got {method!r}")
    if url not in (COMPLETIONS, CHAT):  # a tuple: the url may be anything, a list too
        raise RequestError(f"expected the url {COMPLETIONS} or {CHAT}, got {url!r}")
    if not isinstance(body, dict):
        raise RequestError("expected 'body' to be an object")
    return name, url, body


def _short_line(fields: dict[str, Any]) -> _Parts:
    if "prompt" in fields and "messages" in fields:
        raise RequestError("expected 'prompt' or 'messages', got both")
    if "prompt" not in fields and "messages" not in fields:
        raise RequestError("expected an object with 'prompt', 'messages' or 'body'")
    name = fields.pop("custom_id", None)
    other = fields.pop("id", None)
    name = other if name is None else name
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise RequestError("expected the id to be a string or a whole number")
    return None if name is None else str(name), None, fields


def _check_body(url: str, body: dict[str, Any]) -> None:
    if url == CHAT:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise RequestError("expected 'messages' to be a list of at least one message")
    elif not isinstance(body.get("prompt"), str) and not _is_one_prompt(body.get("prompt")):
        raise RequestError("expected 'prompt' to be one text or one list of token ids; give each prompt its own line")
    _check_count(body, "max_tokens")
    if _SELDOM.isdisjoint(body):
        return
    if body.get("stream"):
        raise RequestError("'stream' is not for jobs: every answer is written when it is whole")
    if url == CHAT and body.get("tools") and body.get("tool_choice") != "none":
        raise RequestError("'tools' are not supported: an answer that calls one could not be told")
    _check_count(body, "n")
    _check_count(body, "max_completion_tokens")


def _check_count(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < 1):  # type: a bool is no count
        raise RequestError(f"expected {name!r} to be a whole number of at least 1, got {value!r}")


def _is_one_prompt(value: object) -> bool:
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
        value = value[0]
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    return isinstance(value, str)


def _only(prompt: Any) -> Content:
    """Take the one prompt out of a list that holds no other."""
    content: Content = prompt[0] if isinstance(prompt, list) and not isinstance(prompt[0], int) else prompt
    return content


def _sampling(fields: dict[str, Any], *, chat: bool) -> Sampling:
    """Make the sampling of a body without its prompt. Values of a wrong type are the server's to refuse."""
    fields.pop("stream", None)
    fields.pop("stream_options", None)
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
