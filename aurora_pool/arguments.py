"""Checks of arguments: one clear :class:`ConfigError` that names the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from reprlib import Repr
from typing import Any

from aurora_pool.errors import ConfigError

__all__ = ["check_index", "check_instance", "check_many", "check_one_of", "check_seconds", "check_whole", "shown"]

_short = Repr()
_short.maxstring = _short.maxother = 60


def check_whole(least: int, **arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is neither None nor a whole number of at least ``least``.

    >>> check_whole(1, concurrency="4")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: concurrency: expected a whole number of at least 1, got '4'
    """
    for name, value in arguments.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            raise ConfigError(f"{name}: expected a whole number of at least {least}, got {shown(value)}")


def check_index(name: str, value: Any, size: int) -> None:
    """Raise :class:`ConfigError` for what is no index into ``size`` things; negative ones count from the end.

    >>> check_index("agent_index", 3, 3)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: agent_index: expected an index below 3, got 3
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not -size <= int(value) < size:
        raise ConfigError(f"{name}: expected an index below {size}, got {shown(value)}")


def check_seconds(**arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is neither None nor a number of seconds above 0.

    >>> check_seconds(timeout=-1)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: timeout: expected seconds above 0, got -1
    """
    for name, value in arguments.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
            raise ConfigError(f"{name}: expected seconds above 0, got {shown(value)}")


def check_one_of(name: str, value: Any, expected: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for a value that is none of the words expected.

    >>> check_one_of("balance", "random", ("adaptive", "strict"))
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: balance: expected 'adaptive' or 'strict', got 'random'
    """
    if value not in expected:
        listed = ", ".join(repr(word) for word in expected[:-1])
        raise ConfigError(f"{name}: expected {listed} or {expected[-1]!r}, got {shown(value)}")


def check_instance(name: str, value: Any, kind: type, *, optional: bool = True) -> None:
    """Raise :class:`ConfigError` for a value of another kind. None will do where it is ``optional``.

    >>> check_instance("model", 7, str)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: model: expected str, got 7
    """
    if not (optional and value is None) and not isinstance(value, kind):
        raise ConfigError(f"{name}: expected {kind.__name__}, got {shown(value)}")


def check_many(**arguments: Any) -> None:
    """Raise :class:`ConfigError` for one text, whose letters would be taken one by one, and for what holds nothing.

    >>> check_many(items="TP53")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: items: expected a list, or another iterable, of items, got 'TP53'
    """
    for name, value in arguments.items():
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise ConfigError(f"{name}: expected a list, or another iterable, of {name}, got {shown(value)}")


def shown(value: object) -> str:
    """Write a value for an error message: as code, and not at length."""
    return _short.repr(value)
