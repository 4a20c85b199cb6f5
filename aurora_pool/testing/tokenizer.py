"""A reversible tokenizer that needs no vocabulary file.

Text is cut into words with their leading space. A common word is one token; any other is cut into pieces of at most
two bytes, so every text has tokens and every token has a text:

==================  =====================================================
ids                 tokens
==================  =====================================================
0-255               single bytes
256-65,791          pairs of bytes
65,792-66,031       the common words, with their leading space
66,032-66,033       the tags around thinking
66,034-66,037       the special tokens
==================  =====================================================

As with the real thing, special tokens written in a text become special tokens, and the tokens of two texts joined are
not always the two texts' tokens joined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

SPECIAL_TOKENS = (
    "<think>",  # these two are not left out of generated text
    "</think>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|im_start|>",
    "<|im_end|>",
)

COMMON_WORDS = tuple(
    """
    sun the of to in is it that for as with was on are by be this from at or which one have not had but all were when
    we there can an your has more if will each about how up out them then she many some so these would other into her
    like him time two could no make than first been its who now people my made over did down only way find use may
    water long little very after words called just where most know get through back much before go good new write our
    used me man too any day same right look think also around another came come work three word must because does part
    even and place well such here take why things help put years different away again off went old number great tell men
    say small every found still between name should home big give air line set own under read last never us left end
    along while might next sound below saw something thought both few those always looked show large often together
    asked house world going want school important until form food keep children feet land side without boy once
    animals life enough took four head above kind began almost live page got earth need far hand high year mother light
    parts country father let night following picture being study second eyes soon times story boys since white days
    """.split()  # noqa: SIM905 - a list of 240 literals reads worse
)

_PAIRS = 256
_WORDS = _PAIRS + 65536
_SPECIALS = _WORDS + len(COMMON_WORDS)

VOCABULARY_SIZE = _SPECIALS + len(SPECIAL_TOKENS)
SPECIAL_IDS = {text: _SPECIALS + number for number, text in enumerate(SPECIAL_TOKENS)}
WORD_IDS = range(_WORDS, _SPECIALS)
LONGEST_TOKEN = max(map(len, SPECIAL_TOKENS))
"""Characters of the longest token; a text of n tokens has at most n times as many."""

_BYTES: tuple[bytes, ...] = (
    *(bytes([byte]) for byte in range(256)),
    *(bytes([first, second]) for first in range(256) for second in range(256)),
    *(f" {word}".encode() for word in COMMON_WORDS),
    *(text.encode() for text in SPECIAL_TOKENS),
)
_SHOWN = (*_BYTES[: _SPECIALS + 2], *(b"" for _ in SPECIAL_TOKENS[2:]))
_COMMON = {f" {word}": _WORDS + number for number, word in enumerate(COMMON_WORDS)}
_PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+")
_SPECIAL_PATTERN = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")


def encode(text: str) -> list[int]:
    """Cut a text into token ids.

    >>> encode(" the cat<|im_end|>")
    [65793, 8547, 25204, 66037]
    """
    if "<" not in text:
        return list(chain.from_iterable(map(_encode_word, _PIECES.findall(text))))
    ids: list[int] = []
    for part in _SPECIAL_PATTERN.split(text):
        special = SPECIAL_IDS.get(part)
        if special is not None:
            ids.append(special)
        else:
            ids.extend(chain.from_iterable(map(_encode_word, _PIECES.findall(part))))
    return ids


def decode_bytes(ids: Iterable[int], *, skip_special: bool = False) -> bytes:
    """Join token ids to the UTF-8 bytes of their text, which may end within a character.

    ``skip_special`` leaves special tokens out, as in generated text. Raises ``IndexError`` for an unknown id.
    """
    texts = _SHOWN if skip_special else _BYTES
    return b"".join(map(texts.__getitem__, ids))


def decode(ids: Iterable[int], *, skip_special: bool = False) -> str:
    """Turn token ids back into text; a broken character becomes U+FFFD.

    >>> decode(encode("Grüße, <|im_start|>!"))
    'Grüße, <|im_start|>!'
    """
    return decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")


@lru_cache(maxsize=65536)
def _encode_word(word: str) -> tuple[int, ...]:
    common = _COMMON.get(word)
    if common is not None:
        return (common,)
    data = word.encode("utf-8", "surrogatepass")
    whole = len(data) & ~1
    pairs = [_PAIRS + data[i] * 256 + data[i + 1] for i in range(0, whole, 2)]
    return (*pairs, data[-1]) if whole < len(data) else tuple(pairs)
