"""A model's chat template, learnt from its server, so that conversations can travel in list requests.

No tokenizer on the client: ``/tokenize`` a conversation whose texts are rare markers, ``/detokenize`` the ids, and
split at the markers. The text before, between and after them is the template's own. Most templates put a
conversation together piece by piece, and then those pieces around other texts give exactly the tokens that the chat
endpoint would; some trim each text first. Whether that is so is checked on further conversations, token by token; a
template that does anything else (counts turns, rewrites texts) is not used, and its conversations go through the chat
endpoints.

This module is pure: :class:`ChatTemplate` says what to ask, and is given the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from aurora_pool.messages import Message

_MARKERS = "zqxj{}vkwz"
"""Letters that no tokenizer's special tokens and no template contain."""

CHECKS = (
    "Was ist 2 + 2?",
    " leading space, and a line\nbreak,\ttab ",
    "Größe 東京 🦊 <|im_end|> </s> [INST] {braces}\n\n",
)
"""Texts on which a learnt template must give the server's own tokens."""


def template_key(messages: Sequence[Message], kwargs: Mapping[str, Any] | None) -> tuple[tuple[str, ...], bytes] | None:
    """What a conversation's template depends on beside its texts: roles and keyword arguments.

    None for a conversation that is more than roles and texts (images, tool calls, names), or that ends with the
    assistant's words.

    >>> template_key([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], None)
    (('system', 'user'), b'null')
    """
    for message in messages:
        if set(message) != {"role", "content"} or not isinstance(message["content"], str):
            return None
    if not messages or messages[-1]["role"] == "assistant":
        return None
    return tuple(message["role"] for message in messages), msgspec.json.encode(kwargs, order="sorted")


class ChatTemplate:
    """The template for conversations of certain roles: the texts around what is said.

    >>> template = ChatTemplate(("user",), ["<user>", "</user><assistant>"], str)
    >>> template.render(["Hi"])
    '<user>Hi</user><assistant>'
    """

    __slots__ = ("_clean", "_pieces", "roles")

    def __init__(self, roles: tuple[str, ...], pieces: Sequence[str], clean: Callable[[str], str]) -> None:
        self.roles = roles
        self._pieces = pieces
        self._clean = clean

    @property
    def separable(self) -> bool:
        """Whether the texts can be told apart from the template; if not, conversations are for the chat endpoints."""
        return bool(self._pieces)

    def render(self, texts: Sequence[str]) -> str:
        """Put texts into the template, one for each role."""
        parts = [self._pieces[0]]
        for text, piece in zip(texts, self._pieces[1:], strict=True):
            parts += (self._clean(text), piece)
        return "".join(parts)


def as_conversation(text: str, system_prompt: str | None) -> list[Message]:
    """Text as what a user says, after the system prompt if there is one."""
    user: list[Message] = [{"role": "user", "content": text}]
    return user if system_prompt is None else [{"role": "system", "content": system_prompt}, *user]


def marked(roles: Sequence[str]) -> list[Message]:
    """The conversation to ask about first: a marker for each text."""
    return [{"role": role, "content": _MARKERS.format(index)} for index, role in enumerate(roles)]


def checked(roles: Sequence[str], check: int) -> list[Message]:
    """A conversation on which a learnt template is to be checked; there are as many as :data:`CHECKS`."""
    return [{"role": role, "content": CHECKS[(check + index) % len(CHECKS)]} for index, role in enumerate(roles)]


def candidates(roles: tuple[str, ...], rendered: str) -> list[ChatTemplate]:
    """What the template may be, given how it rendered the marked conversation; empty if it is not separable."""
    pieces = []
    rest = rendered
    for index in range(len(roles)):
        before, marker, rest = rest.partition(_MARKERS.format(index))
        if not marker:
            return []
        pieces.append(before)
    if "zqxj" in rest or any("zqxj" in piece for piece in pieces):
        return []
    pieces.append(rest)
    return [ChatTemplate(roles, pieces, str), ChatTemplate(roles, pieces, str.strip)]
