"""``--config FILE.yaml``: any of a command's options, for a command line that says less. The command line wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from aurora_pool.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Known:
    """An option: its parameter's name, whether it says that this is not so, and whether it may be repeated."""

    parameter: str
    inverted: bool = False
    repeated: bool = False

    def value(self, given: Any) -> Any:
        """Give the parameter's value for what a file says."""
        if isinstance(given, dict) and self.repeated:
            given = [f"{old}={new}" for old, new in given.items()]
        if self.repeated and not isinstance(given, list):
            given = [given]
        if self.inverted and isinstance(given, bool):
            return not given
        if isinstance(given, str) and given.startswith("~"):  # a shell has done this for what is on the command line
            return os.path.expanduser(given)  # noqa: PTH111 - text stays text, which may be no path
        return given


def load_config(path: Path, known: Mapping[str, Known]) -> dict[str, Any]:
    """Read options, written as on the command line without the dashes: ``max-tokens: 64``.

    ``known`` are the options that there are; the result has the names of their parameters for its keys.
    Raises :class:`~aurora_pool.errors.ConfigError` for a file that is no mapping, and for keys that are not options.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: the configuration can't be read ({reason})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, a thousand brackets
        raise ConfigError(f"{path}: the configuration is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected options, one a line, such as 'max-tokens: 64'")
    options = {str(key).replace("_", "-"): value for key, value in content.items()}
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ConfigError(f"{path}: no such option: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return {known[key].parameter: known[key].value(value) for key, value in options.items()}


def apply_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take what the file holds as the command's defaults; a callback of the eager option ``--config``."""
    if path is not None:
        known = {
            option.removeprefix("--"): Known(
                parameter.name, option in parameter.secondary_opts, getattr(parameter, "multiple", False)
            )
            for parameter in context.command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--") and parameter.name not in {None, "config", "help"}
        }
        context.default_map = {**load_config(path, known), **(context.default_map or {})}
    return path
