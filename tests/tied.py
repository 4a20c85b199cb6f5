"""Servers that tests start end with the tests, also where those are killed and tidy nothing up."""

from __future__ import annotations

import shutil
import signal


def tied(number: signal.Signals = signal.SIGKILL, *, user: str | None = None) -> list[str]:
    """Give what a command begins with to be sent ``number`` when the process that starts it dies; on Linux only.

    With ``user``, the command runs as that user.
    """
    if not shutil.which("setpriv"):
        return []
    identity = [f"--reuid={user}", f"--regid={user}", "--init-groups"] if user else []
    return ["setpriv", *identity, f"--pdeathsig={number.name.removeprefix('SIG')}", "--"]
