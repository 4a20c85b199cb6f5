"""``--config FILE.yaml``: any of a command's options, for a command line that says less. The command line wins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from aurora_pool.errors import ConfigError


def load_config(path: Path, known: Mapping[str, str]) -> dict[str, Any]:
    """Read options, written as on the command line without the dashes: ``max-tokens: 64``.

    ``known`` maps the options' names to the names of the command's parameters, which the result has for its keys.
    Raises :class:`~aurora_pool.errors.ConfigError` for a file that is no mapping, and for keys that are not options.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: the configuration can't be read ({reason})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: the configuration is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected options, one a line, such as 'max-tokens: 64'")
    options = {str(key).replace("_", "-"): value for key, value in content.items()}
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise ConfigError(f"{path}: no such option: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if isinstance(options.get("model-map"), dict):
        options["model-map"] = [f"{old}={new}" for old, new in options["model-map"].items()]
    return {known[key]: value for key, value in options.items()}


def apply_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take what the file holds as the command's defaults; a callback of the eager option ``--config``."""
    if path is not None:
        known = {
            option.removeprefix("--"): parameter.name
            for parameter in context.command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--") and parameter.name not in {None, "config", "help"}
        }
        context.default_map = {**load_config(path, known), **(context.default_map or {})}
    return path
