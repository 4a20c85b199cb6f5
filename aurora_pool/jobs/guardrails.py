"""What ends a job that is hopeless, or that has cost enough. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aurora_pool.arguments import check_amount, check_each_instance, check_tag, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.hosted import hosted_terms
from aurora_pool.messages import Response

__all__ = ["Guardrails", "Price"]

LEAST = 20
"""Finished requests before a share of failures means anything."""

Stop = Literal["too many failures", "budget spent"]


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost on agents with this tag; on all others if there is none.

    >>> Price(("tier", "large"), prompt=0.5, generated=1.5).prompt
    0.5

    Raises :class:`~aurora_pool.errors.ConfigError` for invalid arguments.
    """

    tag: tuple[str, str] | None
    prompt: float
    generated: float

    def __post_init__(self) -> None:
        check_tag(self.tag)
        check_amount(prompt=self.prompt, generated=self.generated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrails:
    """Limits of one run.

    >>> limits = Guardrails(failure_share=0.05, max_cost=20.0, prices=[Price(None, prompt=0.1, generated=0.4)])

    - ``stop_after_failures``: this number of failed requests ends it; ``failure_share``: such a share of those that
      finished;
    - ``max_total_tokens``: read and generated, those of answers that were asked for again included;
    - ``max_cost``: of these at ``prices`` per million.

    Raises :class:`~aurora_pool.errors.ConfigError` for invalid arguments.
    """

    stop_after_failures: int | None = None
    failure_share: float | None = None
    max_total_tokens: int | None = None
    max_cost: float | None = None
    prices: Sequence[Price] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        check_whole(1, stop_after_failures=self.stop_after_failures, max_total_tokens=self.max_total_tokens)
        check_amount(most=1, optional=True, failure_share=self.failure_share)
        check_amount(optional=True, max_cost=self.max_cost)
        check_each_instance("prices", self.prices, Price)
        if self.max_cost is not None and not self.prices:
            raise ConfigError("max_cost: a limit of the cost needs a price of tokens: expected prices beside it")


class Guard:
    """Counts what a run has spent and failed at."""

    def __init__(self, rails: Guardrails) -> None:
        self._rails = rails
        self.tokens = 0
        self.cost = 0.0
        self.failures: Counter[str] = Counter()
        self.done = 0

    def spend(self, response: Response, tags: Mapping[str, str]) -> None:
        """Count the tokens of an answer, whatever becomes of it, at the price of the agent with these tags."""
        prompt, generated = response.prompt_tokens or 0, response.completion_tokens or 0
        self.tokens += prompt + generated
        price = price_of(self._rails.prices, tags)
        if price is not None:
            self.cost += (prompt * price.prompt + generated * price.generated) / 1e6

    def finish(self, response: Response) -> None:
        """Count a finished request."""
        self.done += 1
        if not response.success:
            self.failures[str(response.error_kind)] += 1

    def verdict(self) -> tuple[Stop, str] | None:
        """Say whether to stop, and why."""
        rails = self._rails
        failed = self.failures.total()
        share = rails.failure_share
        too_many = rails.stop_after_failures is not None and failed >= rails.stop_after_failures
        if too_many or (share is not None and self.done >= LEAST and failed > share * self.done):
            causes = ", ".join(f"{cause} {count}" for cause, count in self.failures.most_common(3))
            return "too many failures", f"{failed} of {self.done} failed: {causes}"
        if rails.max_total_tokens is not None and self.tokens >= rails.max_total_tokens:
            return "budget spent", f"{self.tokens} tokens, of {rails.max_total_tokens} allowed"
        if rails.max_cost is not None and self.cost >= rails.max_cost:
            return "budget spent", f"a cost of {self.cost:.2f}, of {rails.max_cost:.2f} allowed"
        return None


def price_of(prices: Sequence[Price], tags: Mapping[str, str]) -> Price | None:
    """Give the first price that an agent with these tags has; a hosted one has its own."""
    terms = hosted_terms(tags)
    if terms is not None and terms.priced:
        return Price(None, terms.price_in, terms.price_out)
    for price in prices:
        if price.tag is None or tags.get(price.tag[0]) == price.tag[1]:
            return price
    return None


def parse_failures(text: str) -> dict[str, float]:
    """Read a limit of failures: a count, or a share.

    >>> parse_failures("5%"), parse_failures("200")
    ({'failure_share': 0.05}, {'failures': 200})

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    number, percent, _ = text.strip().partition("%")
    try:
        if percent and 0 <= float(number) <= 100:
            return {"failure_share": float(number) / 100}
        if not percent and int(number) > 0:
            return {"failures": int(number)}
    except ValueError:
        pass
    raise ConfigError(f"expected a number of failures, such as 200, or a share, such as 5%, got {text!r}")


def parse_price(text: str) -> Price:
    """Read ``[TAG=VALUE:]PRICE[/PRICE]``: per million tokens read, and generated if that is another.

    >>> parse_price("tier=large:0.5/1.5"), parse_price("0.2")
    (Price(tag=('tier', 'large'), prompt=0.5, generated=1.5), Price(tag=None, prompt=0.2, generated=0.2))

    Raises :class:`~aurora_pool.errors.ConfigError`.
    """
    tag, colon, price = text.rpartition(":")
    key, equals, value = tag.partition("=")
    prompt, _, generated = price.partition("/")
    try:
        amounts = float(prompt), float(generated or prompt)
    except ValueError:
        amounts = (math.nan, math.nan)
    if not all(0 <= amount < math.inf for amount in amounts) or (colon and not (key and equals and value)):
        raise ConfigError(f"expected a price as 0.5, 0.5/1.5 or tier=large:0.5/1.5, got {text!r}")
    return Price((key, value) if colon else None, *amounts)
