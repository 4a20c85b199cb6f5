"""Checks of arguments: one clear :class:`ConfigError` that names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from reprlib import Repr
from types import UnionType
from typing import Any, get_args

from aurora_pool.errors import ConfigError

__all__ = [
    "check_amount",
    "check_callable",
    "check_each_instance",
    "check_fields",
    "check_index",
    "check_instance",
    "check_many",
    "check_one_of",
    "check_positive",
    "check_seconds",
    "check_tag",
    "check_whole",
    "is_index",
    "parse_pairs",
    "shown",
]

_short = Repr()
_short.maxstring = _short.maxother = 60


def check_whole(least: int, *, optional: bool = True, **arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is no whole number of at least ``least``.

    None will do where they are ``optional``.

    >>> check_whole(1, concurrency="4")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: concurrency: expected a whole number of at least 1, got '4'
    """
    for name, value in arguments.items():
        if optional and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
            raise ConfigError(f"{name}: expected a whole number of at least {least}, got {shown(value)}")


def check_index(name: str, value: Any, size: int) -> None:
    """Raise :class:`ConfigError` for what is no index into ``size`` things; negative ones count from the end.

    >>> check_index("agent_index", 3, 3)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: agent_index: expected an index below 3, got 3
    """
    if not is_index(value, size):
        raise ConfigError(f"{name}: expected an index below {size}, got {shown(value)}")


def is_index(value: Any, size: int) -> bool:
    """Whether it is an index into ``size`` things; negative ones count from the end."""
    return not isinstance(value, bool) and isinstance(value, Integral) and -size <= int(value) < size


def check_seconds(*, optional: bool = True, **arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is no number of seconds above 0; None will do if ``optional``.

    >>> check_seconds(timeout=-1)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: timeout: expected seconds above 0, got -1
    """
    _check_above_0("seconds", optional, arguments)


def check_positive(*, optional: bool = False, **arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is no number above 0; None will do if ``optional``.

    >>> check_positive(weight="2")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: weight: expected a number above 0, got '2'
    """
    _check_above_0("a number", optional, arguments)


def check_amount(*, most: float = math.inf, optional: bool = False, **arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is no number from 0 to ``most``; None will do if ``optional``.

    >>> check_amount(max_cost=-1)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: max_cost: expected a number from 0 on, got -1
    >>> check_amount(most=1, failure_share=7)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: failure_share: expected a number from 0 to 1, got 7
    """
    for name, value in arguments.items():
        if not (optional and value is None) and not (_is_number(value) and 0 <= value <= most):
            limit = "on" if most == math.inf else f"to {most}"
            raise ConfigError(f"{name}: expected a number from 0 {limit}, got {shown(value)}")


def check_one_of(name: str, value: Any, expected: Sequence[str]) -> None:
    """Raise :class:`ConfigError` for a value that is none of the words expected.

    >>> check_one_of("balance", "random", ("adaptive", "strict"))
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: balance: expected 'adaptive' or 'strict', got 'random'
    """
    if not isinstance(value, str) or value not in expected:
        listed = ", ".join(repr(word) for word in expected[:-1])
        raise ConfigError(f"{name}: expected {listed} or {expected[-1]!r}, got {shown(value)}")


def check_instance(name: str, value: Any, kind: type | UnionType, *, optional: bool = True) -> None:
    """Raise :class:`ConfigError` for a value of another kind. None will do where it is ``optional``.

    >>> check_instance("model", 7, str)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: model: expected str, got 7
    """
    if not (optional and value is None) and not isinstance(value, kind):
        expected = " or ".join(
            "a whole number" if one is Integral else one.__name__ for one in get_args(kind) or (kind,)
        )
        raise ConfigError(f"{name}: expected {expected}, got {shown(value)}")


def check_fields(options: object, names_of: Mapping[type | UnionType, Iterable[str]], *, optional: bool = True) -> None:
    """Raise :class:`ConfigError` for a field of an object that is not of its kind; None will do if ``optional``.

    >>> from aurora_pool import AgentEndpoint
    >>> check_fields(AgentEndpoint("gpu01"), {str: ("host", "port")})
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: port: expected str, got 8000
    """
    for kind, names in names_of.items():
        for name in names:
            check_instance(name, getattr(options, name), kind, optional=optional)


def check_callable(**arguments: Any) -> None:
    """Raise :class:`ConfigError` for an argument that is neither None nor a function.

    >>> check_callable(on_progress=True)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: on_progress: expected a function, got True
    """
    for name, value in arguments.items():
        if value is not None and not callable(value):
            raise ConfigError(f"{name}: expected a function, got {shown(value)}")


def check_many(**arguments: Any) -> None:
    """Raise :class:`ConfigError` for one text, whose letters would be taken one by one, and for what holds nothing.

    >>> check_many(items="TP53")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: items: expected a list, or another iterable, of items, got 'TP53'
    """
    for name, value in arguments.items():
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise ConfigError(f"{name}: expected a list, or another iterable, of {name}, got {shown(value)}")


def check_each_instance(name: str, values: Any, kind: type | UnionType) -> None:
    """Raise :class:`ConfigError` for what is no list of values of a kind, naming the first of another.

    >>> check_each_instance("choices", ["yes", None], str)
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: choices[1]: expected str, got None
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise ConfigError(f"{name}: expected a list, got {shown(values)}")
    for index, value in enumerate(values):
        check_instance(f"{name}[{index}]", value, kind, optional=False)


def check_tag(tag: Any) -> None:
    """Raise :class:`ConfigError` for what is neither None nor a tag: the pair of a key and its value.

    >>> check_tag("role=critic")
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: tag: expected a key and its value, as in ('role', 'critic'), got 'role=critic'
    """
    if tag is not None and not (isinstance(tag, tuple) and list(map(type, tag)) == [str, str]):
        raise ConfigError(f"tag: expected a key and its value, as in ('role', 'critic'), got {shown(tag)}")


def shown(value: object) -> str:
    """Write a value for an error message: as code, and not at length."""
    return _short.repr(value)


def _check_above_0(what: str, optional: bool, arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if not (optional and value is None) and not (_is_number(value) and value > 0):  # a NaN is not, either
            raise ConfigError(f"{name}: expected {what} above 0, got {shown(value)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def parse_pairs(name: str, pairs: Iterable[str]) -> dict[str, str]:
    """Read ``key=value`` pairs. Raises :class:`ConfigError` for anything else, and for a key with two values.

    >>> parse_pairs("--tag", ["role=chat", "tier=large"])
    {'role': 'chat', 'tier': 'large'}
    >>> parse_pairs("--tag", ["role"])
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: --tag: expected KEY=VALUE, got 'role'
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if not key or not value:
            raise ConfigError(f"{name}: expected KEY=VALUE, got {pair!r}")
        if found.setdefault(key, value) != value:
            raise ConfigError(f"{name}: {key!r} has two values, {found[key]!r} and {value!r}")
    return found
