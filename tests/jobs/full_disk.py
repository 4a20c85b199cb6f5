"""Let the disk fill up under a job again and again; as ``python -m tests.jobs.full_disk FOLDER`` on a real one.

That mounts a tmpfs of a few pages, in namespaces of its own where this user has no right to mount; see COMMANDS.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.forked import Run
from tests.jobs.killing import failing_fleet
from tests.jobs.shared import texts_of, write_jsonl

SIZES = (20_000, 50_000, 90_000)
"""How many bytes the disk has space for, in turn; with a multiple of them, all is done."""
PLENTY = 1_000_000

COMMANDS = (
    ["unshare", "--user", "--map-root-user", "--mount"],  # anybody, where the kernel lets people have namespaces
    ["unshare", "--mount"],  # root
)


PROGRAM = "from tests.jobs.full_disk import main; main()"
"""Not ``-m``: each process that is forked would import the main module once more."""


def fill_up(folder: Path, disk: Path, set_size: Callable[[int], dict[str, Any]], reason: str) -> None:
    """Run a job whose output is on ``disk``, with more space each time, and check that nothing is ever lost.

    ``set_size`` gives what :class:`Run` must be told for a number of bytes.
    """
    lines = [{"id": f"p{n}", "prompt": f"Say {n}.", "max_tokens": 20} for n in range(300)]
    source, output = write_jsonl(folder / "in.jsonl", lines), disk / "out.jsonl"
    codes = []
    with failing_fleet(folder, 2, random.Random(1), faults=False) as hostfile:
        for size in (*SIZES, PLENTY):
            before = output.read_bytes() if output.exists() else b""
            options = ("run", source, "-o", output, "--hostfile", hostfile)
            code, said = Run(folder, *options, **set_size(size)).end()
            codes.append(code)
            assert output.read_bytes().startswith(before)
            assert len(texts_of(output)) > before.count(b"\n")  # nothing torn, and a little more each time
            if size != PLENTY:
                assert f"{output}: the output can't be written ({reason})" in said
    assert codes == [6, 6, 6, 0]
    assert texts_of(output).keys() == {line["id"] for line in lines}


def command() -> list[str] | None:
    """What gives this user a mount of his own here; None where the machine allows nobody that."""
    if shutil.which("unshare") is None:
        return None
    probe = ["sh", "-c", "mount -t tmpfs -o size=4k aurora-pool /tmp"]
    for each in COMMANDS:
        if subprocess.run([*each, *probe], capture_output=True, check=False).returncode == 0:
            return [*each, sys.executable, "-c", PROGRAM]
    return None


def main() -> None:
    """Do it on a tmpfs, which this process must have the right to mount."""
    folder = Path(sys.argv[1])
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "aurora-pool", str(disk)], check=True)

    def set_size(size: int) -> dict[str, Any]:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
        return {}

    fill_up(folder, disk, set_size, "No space left on device")


if __name__ == "__main__":
    main()
