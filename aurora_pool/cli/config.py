"""``--config FILE.yaml``: any of a command's options, for a command line that says less.

The command line wins over the environment, the environment over the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from aurora_pool.errors import ConfigError

CONFIG_HELP = "A YAML file with options of this command; the command line and the environment win over it."
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
"""All that YAML 1.2 takes for booleans."""
_SEPARATED = {"keep"}
"""Options whose value is a list with commas."""


@dataclass(frozen=True, slots=True)
class Known:
    """An option: its parameter's name, and what it takes.

    - ``flag``: it takes no value on the command line; ``inverted``: it says that something is not so;
    - ``repeated``: it may be given several times; ``separated``: its value is a list with commas.
    """

    parameter: str
    flag: bool = False
    inverted: bool = False
    repeated: bool = False
    separated: bool = False

    def value(self, given: Any) -> Any:
        """Give the parameter's value for what a file says; None for null, which says nothing.

        Raises :class:`TypeError`, which says what is expected.
        """
        if isinstance(given, dict) and self.repeated:
            given = [f"{_text(old)}={_text(new)}" for old, new in given.items()]
        if isinstance(given, list) and (self.repeated or self.separated):
            given = [_text(each) for each in given if each is not None]
            return given if self.repeated else ",".join(given)
        if given is None:
            return None
        if self.flag:
            if not isinstance(given, str) or given not in _BOOLEANS:
                raise TypeError("true or false")
            return _BOOLEANS[given] is not self.inverted
        return [_text(given)] if self.repeated else _text(given)


def load_config(path: Path, known: Mapping[str, Known]) -> dict[str, Any]:
    """Read options, written as on the command line without the dashes: ``max-tokens: 64``.

    ``known`` are the options that there are; the result has the names of their parameters for its keys.
    Raises :class:`~aurora_pool.errors.ConfigError` for a file that is no mapping, for a key that is no option, and for
    a value that its option does not take.
    """
    content = _read(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected options, one a line, such as 'max-tokens: 64'")
    named = {str(key).replace("_", "-"): given for key, given in content.items()}
    unknown = [_unknown(name, known) for name in named if name not in known]
    if unknown:
        raise ConfigError(f"{path}: no such option: {', '.join(unknown)}; --help shows all")
    options: dict[str, Any] = {}
    for name, given in named.items():
        try:
            value = known[name].value(given)
        except TypeError as error:
            raise ConfigError(f"{path}: {name}: expected {error}, got {given!r}") from None
        if value is not None:
            options[known[name].parameter] = value
    return options


def apply_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take what the file holds as the command's defaults; a callback of the eager option ``--config``."""
    if path is not None:
        known = {
            option.removeprefix("--"): Known(
                parameter.name,
                getattr(parameter, "is_flag", False),
                option in parameter.secondary_opts,
                getattr(parameter, "multiple", False),
                parameter.name in _SEPARATED,
            )
            for parameter in context.command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--") and parameter.name not in {None, "config", "help"}
        }
        context.default_map = {**load_config(path, known), **(context.default_map or {})}
    return path


def _read(path: Path) -> object:
    """Read YAML in which a value is its text, as on a command line, or null.

    So ``off`` is no boolean, ``010`` no octal number, ``11:30:00`` none of base 60, and ``2026-01-31`` no date.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 - it is a safe one
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: the configuration can't be read ({reason})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, a thousand brackets
        raise ConfigError(f"{path}: the configuration is not YAML: {' '.join(str(error).split())}") from error


def _unknown(name: str, known: Mapping[str, Known]) -> str:
    near = " or ".join(get_close_matches(name, known, n=3))
    return f"{name} (is {near} meant?)" if near else name


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError("text")
    # A shell has done this for what is on the command line.
    return os.path.expanduser(given) if given.startswith("~/") else given  # noqa: PTH111 - text stays text
