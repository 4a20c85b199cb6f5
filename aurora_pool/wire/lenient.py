"""Read what is not quite as vLLM writes it, where that can be done without doubt.

Readers decode strictly and quickly first; only what does not fit comes here. Gateways and other engines write null for
an empty text or a missing count, leave out the index of an only choice, put log-probabilities in the chat's form, or
send content in parts. What is unknown about the text itself stays a :class:`BadReply`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from aurora_pool.errors import BadReply
from aurora_pool.messages import MOST_TOKENS, Logprobs, Usage
from aurora_pool.wire.answer import Answer, decode
from aurora_pool.wire.errors import error_of

Form = Literal["text", "message", "delta"]
"""Under which key a choice has its text: of ``/v1/completions``, of a chat, of an event of a chat."""

_NEVER_TEXT = frozenset({"finish_reason", "logprobs", "matched_stop", "native_finish_reason", "stop_reason"})
"""Members of a choice beside its text that may be or hold strings."""

_ANY = msgspec.json.Decoder()


class Reply(msgspec.Struct, gc=False):
    """A reply, or one event of it: its choices, what it counts, and which model it says it is of."""

    choices: list[Answer] = []
    usage: Usage | None = None
    model: str | None = None


def read(data: bytes, form: Form, expected: int, begun: Callable[[int], bool] | None = None) -> Reply:
    """Read a body, or an event of a stream if ``begun`` tells of which choices parts have come.

    Raises :class:`ServerError` for an error, :class:`BadReply` for what is no reply of this form.

    >>> [answer] = read(b'{"choices":[{"text":null,"finish_reason":"eos"}],"usage":{}}', "text", 1).choices
    >>> answer.slot, answer.text
    (0, '')
    """
    value = decode(_ANY, data) if data.strip() else None
    if value is None and begun is not None:  # `data:` and `data: null` say nothing
        return Reply()
    if not isinstance(value, dict):
        raise BadReply(f"the reply is not what the API promises: {data[:120]!r}")
    if value.get("error") or value.get("object") == "error":
        raise error_of(value)
    choices = value.get("choices")
    if not isinstance(choices, list):
        if begun is None or choices is not None or "choices" not in value:
            raise BadReply(f"the reply is not what the API promises: no choices in {data[:120]!r}")
        choices = []
    model = value.get("model")
    answers = [_answer(choice, form, len(choices) == 1 and expected == 1, begun, value) for choice in choices]
    return Reply(answers, usage_of(value.get("usage")), model if isinstance(model, str) else None)


def _answer(choice: Any, form: Form, alone: bool, begun: Callable[[int], bool] | None, reply: dict[str, Any]) -> Answer:
    if not isinstance(choice, dict):
        raise BadReply("the reply is not what the API promises: a choice is no object")
    index = choice.get("index")
    if index is None and alone:
        index = 0
    if type(index) is not int:
        raise BadReply(f"the reply is not what the API promises: a choice has the index {str(index)[:40]}")
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else None
    source = choice if form == "text" else choice.get(form)
    key = "text" if form == "text" else "content"
    if choice.get(form) is None and (form != "text" or form not in choice):
        if begun is None or not (reason and begun(index)) or _may_hold_text(choice):
            raise BadReply(f"the reply is not what the API promises: a choice has no {form}")
        source = {}
    elif not isinstance(source, dict):
        raise BadReply(f"the reply is not what the API promises: a choice has no {form}")
    thoughts = source.get("reasoning") if source.get("reasoning") is not None else source.get("reasoning_content")
    calls = source.get("tool_calls")
    ids = choice.get("prompt_token_ids") or reply.get("prompt_token_ids")
    scored = choice.get("prompt_logprobs") or reply.get("prompt_logprobs")
    return Answer(
        index,
        text_of(source.get(key)),
        reason,
        reasoning=thoughts if isinstance(thoughts, str) else None,
        logprobs=logprobs_of(choice.get("logprobs")),
        token_ids=_ids(choice.get("token_ids")),
        prompt_token_ids=_ids(ids),
        prompt_logprobs=scored if isinstance(scored, list) else None,
        tool_calls=calls if isinstance(calls, list) and calls else None,
    )


def _may_hold_text(choice: dict[str, Any]) -> bool:
    """Whether something of a choice may be its text under another name, or a part of a message that has one."""
    others = [value for name, value in choice.items() if name not in _NEVER_TEXT]
    members = [each for value in others if isinstance(value, dict) for each in value.values()]
    return any(isinstance(value, str) and value for value in (*others, *members))


def text_of(content: Any) -> str:
    """A text as it may be written: a string, null, or in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(map(str, parts))
    raise BadReply("the reply is not what the API promises: a choice's text is none")


def usage_of(value: Any) -> Usage | None:
    """Token counts, if they are such: a server that counts what can't be is not believed."""
    if not isinstance(value, dict):
        return None
    prompt, completion = (_count(value.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    return Usage(prompt or 0, completion) if completion is not None else None


def _count(value: Any) -> int | None:
    if type(value) not in (int, float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value)


def logprobs_of(value: Any) -> Logprobs | None:
    """Log-probabilities in the form of completions or of chats; None where they are neither."""
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("content"), list):
        entries = [entry for entry in value["content"] if isinstance(entry, dict)]
        top = [_alternatives(entry.get("top_logprobs")) for entry in entries]
        return Logprobs([str(e.get("token", "")) for e in entries], [_number(e.get("logprob")) for e in entries], top)
    tokens, known = value.get("tokens"), value.get("token_logprobs")
    if not isinstance(tokens, list) or not isinstance(known, list) or len(tokens) != len(known):
        return None
    listed = value.get("top_logprobs")
    alternatives = listed if isinstance(listed, list) and len(listed) == len(tokens) else [None] * len(tokens)
    top = [
        {str(token): float(logprob) for token, logprob in entry.items() if _number(logprob) is not None}
        if isinstance(entry, dict)
        else None
        for entry in alternatives
    ]
    return Logprobs([str(token) for token in tokens], [_number(logprob) for logprob in known], top)


def _alternatives(value: Any) -> dict[str, float] | None:
    if not isinstance(value, list):
        return None
    known = {}
    for entry in value:
        logprob = _number(entry.get("logprob")) if isinstance(entry, dict) else None
        if logprob is not None:
            known[str(entry.get("token", ""))] = logprob
    return known


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and -1e9 < value < 1e9 else None


def _ids(value: Any) -> list[int] | None:
    return value if isinstance(value, list) and all(type(token) is int for token in value) else None
