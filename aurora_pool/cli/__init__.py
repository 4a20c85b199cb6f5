"""The command line: ``aurora-pool run``, ``serve``, ``submit`` and others.

How commands end is told by :mod:`aurora_pool.cli.exit_codes`.
"""

from __future__ import annotations

import sys

from aurora_pool.cli.exit_codes import code_of
from aurora_pool.errors import PoolError

__all__ = ["main"]


def main() -> None:
    """Run the command that ``sys.argv`` asks for, and exit with its code."""
    from aurora_pool.cli.app import app

    try:
        app()
    except PoolError as error:
        print(f"aurora-pool: {error}", file=sys.stderr)
        sys.exit(code_of(error))
