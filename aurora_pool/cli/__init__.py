"""The command line: ``aurora-pool run``, ``ask``, ``summarize``, ``demo``, ``report`` and ``sim``.

How commands end is told by :mod:`aurora_pool.cli.exit_codes`.
"""

from __future__ import annotations

import sys

from aurora_pool.cli.console import prepare, say, settle
from aurora_pool.cli.exit_codes import code_of
from aurora_pool.errors import PoolError

__all__ = ["main"]


def main() -> None:
    """Run the command that ``sys.argv`` asks for, and exit with its code."""
    prepare()
    try:
        from aurora_pool.cli.app import app

        app()
    except PoolError as error:
        say(f"aurora-pool: {error}")
        sys.exit(code_of(error))
    finally:
        settle()
