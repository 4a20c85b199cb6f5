"""The command line: ``aurora-pool run``, ``ask``, ``up``, ``serve``, ``submit`` and the others.

How commands end is in :mod:`aurora_pool.cli.exit_codes`.
"""

from __future__ import annotations

import atexit
import gc
import sys

from aurora_pool.cli.console import flush, prepare
from aurora_pool.cli.exit_codes import told

__all__ = ["main"]

# At its end the interpreter looks for garbage in all that was imported, for up to 0.3 s; a process that ends has none.
atexit.register(gc.freeze)


def main() -> None:
    """Run the command that ``sys.argv`` asks for, and exit with its code."""
    prepare()
    try:
        from aurora_pool.cli.commands import command

        sys.exit(told(command(next(iter(sys.argv[1:]), None))))
    finally:
        flush()
