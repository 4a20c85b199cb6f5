"""Options of a file mean what they mean on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from aurora_pool.cli.app import app
from tests.cli.conftest import Call

COMMANDS: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
ARGUMENTS = {"run": ["in.jsonl"], "serve": ["--hostfile", "h"]}

QUOTED = ("null", "# a: comment", "[a]")
"""Texts that YAML takes for something else."""
TEXTS = ("off", "yes", "true", "010", "11:30:00", "2026-01-31", *QUOTED)
"""Those, and texts that its version 1.1 took for something else."""


def values_of(parameter: Any) -> list[str]:
    """Give what an option may be told on the command line: every choice, or what is likely to go wrong."""
    descriptor = parameter.type_descriptor
    if descriptor.is_choice:
        return list(descriptor.choices)
    if any(kind in str(descriptor.annotation) for kind in ("int", "float")):
        return ["1"]
    return list(TEXTS)


CASES = [
    pytest.param(name, parameter, id=f"{name}-{parameter.name}")
    for name in ARGUMENTS
    for parameter in COMMANDS[name].params
    if parameter.name not in {"source", "config"}
]

Parse = Callable[..., Any]


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Parse a command line, with a file of options or without; gives what an option is then."""
    for variable in ("AURORA_POOL_HOSTFILE", "AURORA_POOL_DATA", "AURORA_POOL_DATABASE"):
        monkeypatch.delenv(variable, raising=False)

    def run(command: str, parameter: str, *arguments: str, config: str | None = None) -> Any:
        if config is not None:
            (tmp_path / "options.yaml").write_text(config)
            arguments = (*arguments, "--config", str(tmp_path / "options.yaml"))
        needed = [] if parameter == "hostfile" and command == "serve" else ARGUMENTS[command]
        context = COMMANDS[command].make_context(command, [*needed, *arguments])
        return context.params[parameter]

    return run


@pytest.mark.parametrize(("command", "parameter"), CASES)
def test_every_value_of_an_option_is_the_same_in_a_file(parse: Parse, command: str, parameter: Any) -> None:
    for name in (*parameter.opts, *parameter.secondary_opts):
        key = name.removeprefix("--")
        if parameter.is_flag and name.startswith("--"):
            here = parse(command, parameter.name, name)
            assert parse(command, parameter.name, config=f"{key}: true\n") is here
            assert parse(command, parameter.name, config=f"{key}: false\n") is not here
        elif name.startswith("--"):
            for value in values_of(parameter):
                here = parse(command, parameter.name, f"{name}={value}")
                written = [yaml.safe_dump({key: value})] + [f"{key}: {value}\n"] * (value not in QUOTED)
                assert [parse(command, parameter.name, config=each) for each in written] == [here] * len(written)


@pytest.mark.parametrize(
    ("config", "parameter", "value"),
    [
        ("keep: [pmid, label]", "keep", "pmid,label"),
        ("keep: pmid,label", "keep", "pmid,label"),
        ("stop: [a, null, 'null']", "stop", ["a", "null"]),
        ("stop: off", "stop", ["off"]),
        ("stop: '~'", "stop", ["~"]),
        ("model-map: {gpt-4o: off, '1': 2}", "model_map", ["gpt-4o=off", "1=2"]),
        ("max_tokens: 64", "max_tokens", 64),
        ("no-run-log: false", "run_log", True),
        ("retry-failed:", "retry_failed", False),
    ],
)
def test_lists_mappings_and_nothing_are_taken_as_they_are_meant(
    parse: Parse, config: str, parameter: str, value: object
) -> None:
    assert parse("run", parameter, config=config) == value


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("yes: on", "yes: expected true or false, got 'on'"),
        ("quiet: [true]", "quiet: expected true or false"),
        ("max-token: 64", "no such option: max-token (is max-tokens or "),
        ("zebra: 1", "no such option: zebra; --help shows all"),
        ("prompt-field: [a, b]", "prompt-field: expected text, got ['a', 'b']"),
        ("tag: {a: {b: c}}", "tag: expected text"),
        ("prefix: no", "'no' is not one of"),
    ],
)
def test_what_is_wrong_in_a_file_is_told(call: Call, tmp_path: Path, config: str, reason: str) -> None:
    (tmp_path / "options.yaml").write_text(config)
    ended = call("run", "in.jsonl", "--config", tmp_path / "options.yaml")
    assert (ended.code, reason in " ".join(ended.err.split())) == (2, True), ended.err


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    parse: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(parse("run", "hostfile", config="hostfile: file")) == "file"
    monkeypatch.setenv("AURORA_POOL_HOSTFILE", "environment")
    assert str(parse("run", "hostfile", config="hostfile: file")) == "environment"
    assert str(parse("run", "hostfile", "--hostfile", "line", config="hostfile: file")) == "line"
