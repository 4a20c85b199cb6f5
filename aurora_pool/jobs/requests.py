"""Lines of a job's input, read into requests: pure, one line at a time. A line is one of three kinds:

- OpenAI Batch: ``{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hi"}}``;
- short: ``{"prompt": "Hi"}`` or ``{"messages": [...]}``, with sampling fields, an ``id`` and columns of data beside it;
- text: the line is the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import msgspec

from aurora_pool.arguments import shown
from aurora_pool.errors import ConfigError
from aurora_pool.jobs.columns import REQUEST_FIELDS, UNSENT, ColumnError, Columns, RowReader
from aurora_pool.jobs.formats import not_utf8
from aurora_pool.options import PromptFormat

__all__ = ["Request"]

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
_URLS = {url: url for url in (COMPLETIONS, CHAT, EMBEDDINGS)}
_URLS |= {url.removeprefix("/v1"): url for url in _URLS}  # as Azure has them
_PARTS = {"messages": CHAT, "prompt": COMPLETIONS, "input": EMBEDDINGS}
"""What a body has, and the url that it is for."""

_SELDOM = frozenset({"stream", "n", "max_completion_tokens"})
"""Fields that are looked at, and that hardly any line has."""
_HASHES = {
    (COMPLETIONS, True): blake2b(digest_size=8, person=b"completions"),
    (COMPLETIONS, False): blake2b(digest_size=8, person=b"auto"),
    (CHAT, False): blake2b(digest_size=8, person=b"chat"),
    (EMBEDDINGS, False): blake2b(digest_size=8, person=b"embeddings"),
}
"""What digests begin with; copying one is quicker than making one."""


class RequestError(ValueError):
    """A line that can't be used; the text says why, and who reads the file adds where."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request of a job.

    ``body`` is what the line asks for with the job's defaults filled in, without the model. ``model`` is the model that
    the line names, after mapping. ``raw`` says that text is sent unchanged, whatever the pool does with text.
    ``digest`` is a hash (64 bits) of all of these but the model, however the line spells them. ``named`` says that the
    line has an id of its own, and ``kept`` holds the columns that are copied into the record.
    """

    id: str
    url: str
    body: dict[str, Any]
    model: str | None
    raw: bool
    digest: int
    named: bool = False
    kept: dict[str, Any] | None = None

    @property
    def chat(self) -> bool:
        """Whether the request goes to ``/v1/chat/completions``."""
        return self.url == CHAT

    @property
    def embedding(self) -> bool:
        """Whether the request goes to ``/v1/embeddings``."""
        return self.url == EMBEDDINGS


Line: TypeAlias = bytes | dict[str, Any]
"""A line of a file, or a row of a table, which may be changed."""

_Parts: TypeAlias = tuple[str | None, str | None, dict[str, Any], str | None, dict[str, Any] | None]
"""A line's id, its url, its body, its system prompt, and what is kept of it."""


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
    ``columns`` says what the columns of short lines are for; ``hints`` are what looks like a mistake in the lines that
    have been read.

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
        columns: Columns | None = None,
    ) -> None:
        self._text = text
        self._prompt_format = prompt_format
        self._system = _system(system_prompt)
        self._columns = columns or Columns()
        self._rows = RowReader(self._columns)
        self._system_option = "--system-prompt" if self._columns.system_template is None else "--system-template"
        # An option that lines which say all of a request have no use for.
        self._for_prompts = self._rows.for_rows or (self._system_option if self._system else None)
        self._quick = self._for_prompts is None and self._columns.keep in ((), "all")
        self._defaults = dict(defaults or {})
        self._model_map = dict(model_map or {})
        self._decode = msgspec.json.Decoder().decode
        self._decode_batch = msgspec.json.Decoder(_Batch).decode
        self._encode = msgspec.json.Encoder(order="sorted").encode

    @property
    def hints(self) -> Mapping[str, str]:
        """What looks like a mistake in the lines that have been read, such as columns that are not sent."""
        return self._rows.hints

    def keeps(self, column: str) -> bool:
        """Whether a column goes along into the record."""
        keep = self._columns.keep
        return column not in REQUEST_FIELDS if keep == "all" else column in keep

    def read(self, line: Line, number: int) -> Request:
        """Read one line, without its end, or a row of a table. ``number`` names a request without an id: ``line-7``.

        Raises :class:`RequestError`, and :class:`~aurora_pool.errors.ConfigError` for a line of OpenAI Batch that an
        option of this reader would do nothing for.
        """
        name, url, body, system, kept = self._parts(line)
        raw = url == COMPLETIONS
        if url is None:
            before = self._system if system is None else _system(system)
            if before and "messages" in body:
                self._rows.hints.setdefault(
                    "", f"{self._system_option} does nothing for lines with 'messages', such as line {number}"
                )
            if (before or self._prompt_format == "chat") and isinstance(body.get("prompt"), str):
                body["messages"] = [*before, {"role": "user", "content": body.pop("prompt")}]
            url = CHAT if "messages" in body else COMPLETIONS
            raw = url == COMPLETIONS and self._prompt_format == "raw"
        model = body.pop("model", None)
        if model is not None and not isinstance(model, str):
            raise RequestError("expected 'model' to be a string")
        for key, value in self._defaults.items():
            body.setdefault(key, value)
        _check_body(url, body)
        digest = _HASHES[url, raw].copy()
        try:
            digest.update(self._encode(body))
        except (TypeError, ValueError, RecursionError) as error:  # a row of a table may hold anything
            raise RequestError(_lone_surrogate(error) or f"the row can't be sent: {error}") from None
        return Request(
            name if name is not None else generated_id(number),
            url,
            body,
            model if model is None else self._model_map.get(model, model),
            raw,
            int.from_bytes(digest.digest(), "big"),
            name is not None,
            kept,
        )

    def _parts(self, line: Line) -> _Parts:
        if isinstance(line, dict):
            return self._object(line)
        return self._text_line(line) if self._text else self._json_line(line)

    def _text_line(self, line: bytes) -> _Parts:
        try:
            return None, None, {"prompt": line.decode()}, None, None
        except UnicodeDecodeError as error:
            raise RequestError(f"{not_utf8(error)} at byte {error.start + 1}") from None

    def _json_line(self, line: bytes) -> _Parts:
        if self._quick and b'"body"' in line:
            # What is as it should be is not looked at key by key: that saves a fifth of the time of a whole pass.
            try:
                batch = self._decode_batch(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # it is read again below, to tell what is wrong
            else:
                return batch.custom_id, batch.url, batch.body, None, None
        try:
            fields = self._decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RequestError(_why_unread(line, error)) from None
        if not isinstance(fields, dict):
            raise RequestError("expected a JSON object")
        return self._object(fields)

    def _object(self, fields: dict[str, Any]) -> _Parts:
        url = fields.get("url")
        # Either may be the name of a column of data, whose values then look otherwise.
        if isinstance(fields.get("body"), dict) or (isinstance(url, str) and url.startswith("/")):
            return self._batch_line(fields)
        return self._short_line(fields)

    def _batch_line(self, fields: dict[str, Any]) -> _Parts:
        if self._for_prompts is not None:
            raise ConfigError(
                f"{self._for_prompts}: the input has lines of OpenAI Batch, whose bodies have the prompts"
            )
        name, url, body = _batch(fields)
        outside = fields.keys() & REQUEST_FIELDS
        if outside:
            raise RequestError(f"unknown key {min(outside)!r} beside 'body'; sampling fields belong into 'body'")
        try:
            return name, url, body, None, self._rows.kept(fields)
        except ColumnError as error:
            raise RequestError(str(error)) from None

    def _short_line(self, fields: dict[str, Any]) -> _Parts:
        try:
            name, body, system, kept = self._rows.read(fields)
        except ColumnError as error:
            raise RequestError(str(error)) from None
        if "prompt" in body and "messages" in body:
            raise RequestError("expected 'prompt' or 'messages', got both")
        if "prompt" not in body and "messages" not in body:
            data = ", ".join(name for name in fields if name not in REQUEST_FIELDS)
            there = f"; it has {data}: say --prompt-field, or --template" if data else ""
            raise RequestError(f"expected an object with 'prompt', 'messages' or 'body'{there}")
        if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
            raise RequestError(f"expected the id to be a string or a whole number, got {shown(name)}")
        return None if name is None else str(name), None, body, system, kept


def generated_id(number: int) -> str:
    """The id of a line that has none of its own."""
    return f"line-{number}"


def is_generated_id(name: str) -> bool:
    """Whether an id may be one of a line that had none."""
    return name.startswith("line-") and name[5:].isdigit()


def _why_unread(line: bytes, error: Exception) -> str:
    """Say what is wrong with a line. msgspec takes half of a surrogate pair for a JSON error, or for a cut line."""
    try:
        json.dumps(json.loads(line.decode()), ensure_ascii=False).encode()
    except UnicodeDecodeError as found:
        return f"{not_utf8(found)} at byte {found.start + 1}"
    except (ValueError, RecursionError) as found:
        lone = _lone_surrogate(found)
    else:
        lone = None
    return lone or f"expected a JSON object: {error}"


def _lone_surrogate(error: Exception) -> str | None:
    if not isinstance(error, UnicodeEncodeError):
        return None
    return f"the text is no valid Unicode: a lone surrogate, {error.object[error.start]!a}"


def _system(text: str | None) -> list[dict[str, str]]:
    return [] if text is None else [{"role": "system", "content": text}]


def _batch(fields: dict[str, Any]) -> tuple[str | None, str, dict[str, Any]]:
    """Take what makes a line of OpenAI Batch out of an object; what is left are columns."""
    name = fields.pop("custom_id", None)
    method = fields.pop("method", "POST")
    url = fields.pop("url", None)
    body = fields.pop("body", None)
    if name is not None and not isinstance(name, str):
        raise RequestError("expected 'custom_id' to be a string")
    if method != "POST":
        raise RequestError(f"expected the method POST, got {method!r}")
    if not isinstance(body, dict):
        raise RequestError("expected 'body' to be an object")
    return name, _url_of(url, body), body


def _url_of(url: object, body: dict[str, Any]) -> str:
    if url is None:
        url = next((known for part, known in _PARTS.items() if part in body), None)
        if url is None:
            raise RequestError("expected a 'url', or a 'body' with 'messages', 'prompt' or 'input'")
    if url in ("/v1/responses", "/responses"):
        raise RequestError(f"the url {url} is not for jobs: write 'messages' instead of 'input', for the url {CHAT}")
    known = _URLS.get(url) if isinstance(url, str) else None
    if known is None:
        raise RequestError(f"expected the url {', '.join(_URLS)}, got {url!r}")
    return known


def _check_body(url: str, body: dict[str, Any]) -> None:
    if url == EMBEDDINGS:
        _check_embedding(body)
        return
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
    _check_count(body, "n")
    _check_count(body, "max_completion_tokens")


def _check_count(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if type(value) is float and value.is_integer():
        value = body[name] = int(value)  # as tables and data frames have whole numbers
    if value is not None and (type(value) is not int or value < 1):  # type: a bool is no count
        raise RequestError(f"expected {name!r} to be a whole number of at least 1, got {value!r}")


def _check_embedding(body: dict[str, Any]) -> None:
    if not _is_one_prompt(body.get("input")):
        raise RequestError("expected 'input' to be one text or one list of token ids; give each text its own line")
    _check_count(body, "dimensions")
    unknown = body.keys() - {"input", "dimensions", "encoding_format"} - UNSENT
    if unknown:
        raise RequestError(f"expected a body of 'input', 'model' and 'dimensions', got {min(unknown)!r}")


def _is_one_prompt(value: object) -> bool:
    if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], int):
        value = value[0]
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    return isinstance(value, str)
