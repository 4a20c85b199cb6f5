"""Hosted agents: APIs that others run, that limit how much they are asked and cost by the token.

Such an agent is a line of the hostfile with the word ``hosted``, and these tags beside it::

    https://api.example.com/v1  hosted rpm=100 tpm=200000 max=2 price_in=0.15 price_out=0.6 model=small api_key_env=KEY
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from aurora_pool.errors import ConfigError

__all__ = ["HOSTED_TAG", "HostedTerms", "Left", "hosted_terms"]

HOSTED_TAG = "hosted"
YES = "true"
AT_ONCE = 8
"""Requests at a time where ``max=`` does not say."""
_LONGEST_NUMBER = 20


@dataclass(frozen=True, slots=True)
class HostedTerms:
    """What a hosted agent allows and costs.

    ``requests`` and ``tokens`` are the most in a minute, ``at_once`` the most requests at a time; prices are of a
    million tokens, read and generated. ``model`` is the model's name there; None asks for it by the pool's.

    >>> HostedTerms(price_in=1.0, price_out=4.0).cost(500_000, 250_000)
    1.5
    """

    requests: int | None = None
    tokens: int | None = None
    at_once: int = AT_ONCE
    price_in: float = 0.0
    price_out: float = 0.0
    model: str | None = None

    @property
    def priced(self) -> bool:
        """Whether anything costs anything."""
        return self.price_in > 0 or self.price_out > 0

    def divided(self, drivers: int) -> HostedTerms:
        """Work out what each of several drivers may use of it, so that they keep the limits together.

        >>> HostedTerms(requests=100, at_once=2).divided(3)
        HostedTerms(requests=33, tokens=None, at_once=1, price_in=0.0, price_out=0.0, model=None)
        """
        return replace(
            self,
            requests=None if self.requests is None else max(1, self.requests // drivers),
            tokens=None if self.tokens is None else max(1, self.tokens // drivers),
            at_once=max(1, self.at_once // drivers),
        )

    def cost(self, prompt_tokens: float, generated: float) -> float:
        """Work out what these tokens cost."""
        return (prompt_tokens * self.price_in + generated * self.price_out) / 1e6


class Left(NamedTuple):
    """What an agent says is left of a limit, and in how many seconds that will be all of it again."""

    amount: float
    reset: float


def hosted_terms(tags: Mapping[str, str]) -> HostedTerms | None:
    """Read the terms of a hosted agent from its tags; None for any other agent, whose tags may mean anything.

    >>> hosted_terms({"hosted": "true", "rpm": "100", "max": "2"})
    HostedTerms(requests=100, tokens=None, at_once=2, price_in=0.0, price_out=0.0, model=None)

    Raises :class:`ConfigError` for a tag that is no number.
    """
    if HOSTED_TAG not in tags:
        return None
    if tags[HOSTED_TAG] != YES:
        raise ConfigError(f"expected the word hosted alone, got {HOSTED_TAG}={tags[HOSTED_TAG]}")
    return HostedTerms(
        _whole(tags, "rpm"),
        _whole(tags, "tpm"),
        _whole(tags, "max") or AT_ONCE,
        _price(tags, "price_in"),
        _price(tags, "price_out"),
        tags.get("model"),
    )


def _whole(tags: Mapping[str, str], key: str) -> int | None:
    text = tags.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER and int(text) > 0):
        raise ConfigError(f"expected {key} as a whole number above 0, such as {key}=100, got {text!r}")
    return int(text)


def _price(tags: Mapping[str, str], key: str) -> float:
    text = tags.get(key, "0")
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e9:
        raise ConfigError(f"expected {key} as the price of a million tokens, such as {key}=0.6, got {text!r}")
    return price
