"""The environment that the peers are installed into, and their installation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "out" / "bench" / "peers"
REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"


def prepare_peers() -> None:
    """Install the peers into an environment of their own, one by one, so that one that can't be had spoils no other."""
    stamp = PEERS / ".installed"
    if stamp.exists() and stamp.stat().st_mtime >= REQUIREMENTS.stat().st_mtime:
        return
    print(f"installing the peers into {PEERS.relative_to(ROOT)} (once, about two minutes)", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    pip = [str(PEERS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    if subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=False, stderr=subprocess.DEVNULL).returncode:
        lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
        for requirement in filter(None, lines):
            if subprocess.run([*pip, requirement], check=False, stderr=subprocess.DEVNULL).returncode:
                print(f"can't install {requirement}", flush=True)
    stamp.touch()
