"""Every file that the package names itself is its own: no link, pipe or folder in its place is followed or written."""

from __future__ import annotations

import ast
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from aurora_pool.fleets.leash import open_log
from aurora_pool.fleets.run_folder import AgentState, Launch, RunFolder
from aurora_pool.fleets.spec import make_fleet
from aurora_pool.jobs.claims import Claims
from aurora_pool.own_files import mode_of, open_own, replacement
from aurora_pool.sharing.roster import Roster

PACKAGE = Path(__file__).parent.parent / "aurora_pool"


def a_run(folder: Path) -> RunFolder:
    for name in ("agents.d", "state", "logs"):
        (folder / name).mkdir()
    return RunFolder(folder)


def a_log(folder: Path) -> Callable[[], None]:
    log = a_run(folder).log("a")
    return lambda: os.close(open_log(log))


def a_beat(folder: Path) -> Callable[[], None]:
    roster = Roster(folder)
    (folder / "name").write_text(roster.name)
    return roster.beat


def a_refusal(folder: Path) -> Callable[[], None]:
    claims = Claims(folder, 1, Roster(folder / "drivers"), rng=random.Random(1))
    lease = claims.take(lambda: None)
    assert lease is not None
    return lambda: claims.refuse(lease, "why")


def a_replacement(folder: Path) -> Callable[[], None]:
    def write() -> None:
        with replacement(folder / "file") as file:
            file.write(b"new")

    return write


# What writes, and the file that it writes in its folder.
WRITERS: dict[str, tuple[Callable[[Path], Callable[[], object]], Callable[[Path], Path]]] = {
    "what is opened": (
        lambda f: lambda: os.close(open_own(f / "file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)),
        lambda f: f / "file",
    ),
    "what is replaced": (a_replacement, lambda f: f / "file"),
    "a fleet": (
        lambda f: lambda: RunFolder(f).create(make_fleet({"engine": {"model": "m"}})),
        lambda f: f / "fleet.json",
    ),
    "a launch": (
        lambda f: lambda: a_run(f).write_launch(Launch(launcher="local", handles={})),
        lambda f: f / "launch.json",
    ),
    "a state": (lambda f: lambda: RunFolder(f).write_state(AgentState(name="a")), lambda f: f / "state" / "a"),
    "a line": (lambda f: lambda: RunFolder(f).announce("a", "gpu01 8000\n"), lambda f: f / "agents.d" / "a"),
    "a log": (a_log, lambda f: f / "logs" / "a.log"),
    "a beat": (a_beat, lambda f: f / ("." + (f / "name").read_text())),
    "a refusal": (a_refusal, lambda f: f / "unusable" / "00000"),
}


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
@pytest.mark.parametrize(("prepare", "place"), WRITERS.values(), ids=WRITERS)
def test_nothing_is_written_through_a_link_or_waits_for_a_pipe(
    prepare: Callable[[Path], Callable[[], object]], place: Callable[[Path], Path], kind: str, tmp_path: Path
) -> None:
    folder, precious = tmp_path / "folder", tmp_path / "precious"
    folder.mkdir()
    write = prepare(folder)
    path = place(folder)
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(precious)
    if kind == "link":
        precious.write_bytes(b"precious")
    try:
        write()
    except OSError:
        left = path.lstat().st_mode
        assert stat.S_ISLNK(left) or stat.S_ISFIFO(left)  # it is as it was
    else:
        assert stat.S_ISREG(path.lstat().st_mode)
    assert precious.exists() == (kind == "link")
    assert not precious.exists() or precious.read_bytes() == b"precious"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o666])
def test_what_is_replaced_keeps_its_mode_or_has_that_of_its_like(mode: int, tmp_path: Path) -> None:
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    old.touch()
    old.chmod(mode)
    for path in (old, fresh):
        with replacement(path, like=old) as file:
            (unfinished,) = tmp_path.glob(f".{path.name}.*")
            assert stat.S_IMODE(unfinished.stat().st_mode) == mode  # before a byte is in it
            file.write(b"new")
        assert (path.read_bytes(), mode_of(path)) == (b"new", mode)


def test_a_file_with_the_longest_name_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with replacement(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_a_new_file_has_the_mode_of_new_files(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        with replacement(tmp_path / "file") as file:
            file.write(b"new")
    finally:
        os.umask(mask)
    assert mode_of(tmp_path / "file") == 0o600


# Every other place that opens a file to write, and why it may. What is new belongs to own_files, or here with a reason.
ELSEWHERE = {
    "own_files": "the mechanism",
    "cli.batch_output": "the output, which is named, where it is a pipe or a device",
    "cli.check": "the file that --output names",
    "cli.console": "/dev/null",
    "cli.demo": "in a folder made for it; the log is made, or it fails",
    "cli.report_page": "the file that --html names",
    "jobs.journal": "the output, which is named; a link to it is followed",
    "jobs.merge": "in a folder made for it",
    "jobs.pieces": "made, or it fails",
    "serve.blobs": "in a data folder of its owner only, under 128 random bits",
    "serve.files": "in a data folder of its owner only, under 128 random bits",
    "serve.finalize": "in a data folder of its owner only, under 128 random bits",
    "serve.folders": "in a data folder of its owner only, under 128 random bits",
    "serve.keys": "made, or it fails",
    "testing.fleet": "the file that is named",
}


def writes(call: ast.Call) -> bool:
    """Whether a call opens a file by a name, to write."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("write_text", "write_bytes", "mkstemp", "copyfile"):
        return True
    if name != "open":
        return False
    texts = [each.value for each in [*call.args, *(k.value for k in call.keywords)] if isinstance(each, ast.Constant)]
    modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwxabt+")]
    return any(set(mode) & set("wxa+") for mode in modes) or any(
        isinstance(node, ast.Attribute) and node.attr in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND")
        for node in ast.walk(call)
    )


def test_whatever_else_opens_files_to_write_has_its_reason() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Call) and writes(node) for node in ast.walk(tree)):
            found.add(".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    assert found == set(ELSEWHERE)
