"""What a caller says of a fleet as a whole: the options that the constructors of all pools hand to the runtime."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import get_args

from aurora_pool.arguments import check_instance, check_one_of, check_seconds, check_whole
from aurora_pool.options import ConnectionOptions, Observer, Timeouts
from aurora_pool.policy.prefix import Prefix
from aurora_pool.policy.scheduler import Balance

__all__ = ["FleetOptions"]


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """The options of :class:`~aurora_pool.VLLMPool` that the fleet needs, under the same names.

    ``stream`` is that of :class:`PromptOptions`. Raises :class:`ConfigError` for invalid ones.
    """

    timeout: float | None = None
    balance: Balance = "adaptive"
    prefix: Prefix = "off"
    concurrency: int | None = None
    connector_limit: int | None = None
    timeouts: Timeouts | None = None
    connection: ConnectionOptions | None = None
    observer: Observer | None = None
    rng: random.Random | None = None
    stream: bool = True

    def __post_init__(self) -> None:
        check_seconds(timeout=self.timeout)
        check_one_of("balance", self.balance, get_args(Balance))
        check_one_of("prefix", self.prefix, get_args(Prefix))
        check_whole(1, concurrency=self.concurrency)
        check_whole(0, connector_limit=self.connector_limit)
        check_instance("timeouts", self.timeouts, Timeouts)
        check_instance("connection", self.connection, ConnectionOptions)
        check_instance("observer", self.observer, Observer)
        check_instance("rng", self.rng, random.Random)
