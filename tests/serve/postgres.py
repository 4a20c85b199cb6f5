"""A PostgreSQL server of the tests' own, of Debian's binaries."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tied import tied

PLACES = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/bin"))


def binaries() -> Path | None:
    """Where PostgreSQL's programs are; None if they are not installed."""
    return next((place for place in PLACES if (place / "initdb").exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """Start a server that listens on a Unix socket only; give the URL of its database."""
    place = binaries()
    assert place is not None
    folder = Path(tempfile.mkdtemp(prefix="aurora-pg-"))
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    if user:
        shutil.chown(folder, user)
    before = tied(signal.SIGQUIT, user=user)  # which ends it at once
    data = ["-D", str(folder / "data")]
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    try:
        created = [*before, str(place / "initdb"), *data, "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(created, check=True, capture_output=True, cwd=folder, timeout=60)
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([*before, str(place / "postgres"), *data, *options], cwd=folder, stderr=log)
        try:
            while subprocess.run([place / "pg_isready", "--quiet", "--host", folder], check=False).returncode:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
