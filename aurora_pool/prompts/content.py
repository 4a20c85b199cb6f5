"""What may be a prompt, checked and brought into one form: text, a list of token ids, or a list of messages. Pure."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from aurora_pool.errors import ConfigError
from aurora_pool.messages import Prompt, Sampling


def plain(value: Any) -> Any:
    """Turn a value of another library into Python's own: numpy's scalars and arrays, tensors. For ``enc_hook``.

    Raises :class:`TypeError` for anything else.
    """
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


encode_key = msgspec.json.Encoder(order="sorted", enc_hook=plain).encode
"""Write something so that equal things are written equally."""
_encode = msgspec.json.Encoder(enc_hook=plain).encode
_decode = msgspec.json.Decoder(Sampling).decode


def as_content(content: Any) -> str | list[int] | list[Any]:
    """Bring a prompt's content into one form.

    >>> as_content("Hi"), as_content(range(3)), as_content(({"role": "user", "content": "Hi"},))
    ('Hi', [0, 1, 2], [{'role': 'user', 'content': 'Hi'}])

    Raises :class:`ConfigError` for what is neither text nor token ids nor messages.
    """
    if isinstance(content, str):
        return str(content)  # numpy's strings are a subclass, which no encoder takes
    if callable(getattr(content, "tolist", None)):
        content = content.tolist()
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray) and content:
        if isinstance(content[0], Mapping):
            return _messages(content)
        return _ids(content)
    raise ConfigError(f"expected text, token ids or messages, got {_described(content)}")


def as_prompt(prompt: Any) -> Prompt:
    """Bring a prompt into one form: see :func:`as_content`. Raises :class:`ConfigError`."""
    if not isinstance(prompt, Prompt):
        return Prompt(as_content(prompt))
    max_tokens = prompt.max_tokens
    if max_tokens is not None and (isinstance(max_tokens, bool) or _index(max_tokens) is None or max_tokens < 1):
        raise ConfigError(f"max_tokens: expected a whole number of at least 1, got {max_tokens!r}")
    if prompt.sampling is not None:
        check_sampling(prompt.sampling)
    if prompt.format not in (None, "chat", "raw"):
        raise ConfigError(f"format: expected 'chat' or 'raw', got {prompt.format!r}")
    return Prompt(as_content(prompt.content), prompt.sampling, max_tokens and int(max_tokens), prompt.format)


def check_sampling(sampling: Any) -> None:
    """Raise :class:`ConfigError` for what is no sampling, or one that can't be sent."""
    if not isinstance(sampling, Sampling):
        raise ConfigError(f"sampling: expected Sampling, got {_described(sampling)}")
    try:
        _check_encoding(_encode(sampling))
    except msgspec.ValidationError as error:  # such as "Expected `int | null`, got `str` - at `$.seed`"
        reason, _, place = str(error).partition(" - at `$")
        raise ConfigError(f"sampling{place.rstrip('`')}: {reason[:1].lower()}{reason[1:]}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"sampling: {error}") from None


@lru_cache(maxsize=256)  # many prompts of one sampling are checked once
def _check_encoding(encoding: bytes) -> None:
    n = _decode(encoding).n
    if n < 1:
        raise ConfigError(f"sampling.n: expected a whole number of at least 1, got {n}")
    if b":null" in encoding:  # what is None is left out: this is an infinity or a NaN, unless it is deeper in
        endless = [name for name, value in msgspec.json.decode(encoding).items() if value is None]
        if endless:
            raise ConfigError(f"sampling.{endless[0]}: expected a finite number")


def check_each(prompts: Collection[Any]) -> None:
    """Raise :class:`ConfigError`, with its index, for the first that can't be a prompt."""
    if set(map(type, prompts)) == {str}:
        return
    sound: set[int] = set()
    for index, prompt in enumerate(prompts):
        try:
            if isinstance(prompt, Prompt) and id(prompt.sampling) in sound:
                prompt = msgspec.structs.replace(prompt, sampling=None)  # noqa: PLW2901 (it has been checked)
            as_prompt(prompt)
        except ConfigError as error:
            raise ConfigError(f"prompt {index}: {error}") from None
        if isinstance(prompt, Prompt) and prompt.sampling is not None:
            sound.add(id(prompt.sampling))


def can_be_sent(texts: Collection[Any]) -> bool:
    """Whether texts are valid Unicode, as JSON must be."""
    return all(map(str.isascii, texts)) or all(why_unsendable(text) is None for text in texts)


def why_unsendable(content: str | list[Any]) -> str | None:
    r"""Say why a content can't be sent though it is a prompt; None if it can.

    >>> why_unsendable("half an emoji: " + chr(0xD83D))
    "the text is no valid Unicode: a lone surrogate, '\\ud83d', at character 15"
    """
    try:
        content.encode() if isinstance(content, str) else _encode(content)
    except UnicodeEncodeError as error:
        found = error.object[error.start : error.start + 1]
        return f"the text is no valid Unicode: a lone surrogate, {found!a}, at character {error.start}"
    return None


def _messages(content: Sequence[Any]) -> list[Any]:
    try:
        messages: list[Any] = msgspec.to_builtins(list(content), enc_hook=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the messages can't be sent: {error}") from None
    if not all(isinstance(message, dict) for message in messages):
        raise ConfigError("expected messages, each a mapping with 'role' and 'content'")
    return messages


def _ids(content: Sequence[Any]) -> list[int]:
    if set(map(type, content)) == {int}:
        return list(content)
    ids = [_index(value) for value in content]
    if None in ids:
        odd = content[ids.index(None)]
        raise ConfigError(f"expected text, token ids or messages, got a list with {_described(odd)}")
    return ids  # type: ignore[return-value] # there is no None among them


def _index(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _described(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.40}"
