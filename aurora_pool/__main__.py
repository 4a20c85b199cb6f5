"""Run the command line as ``python -m aurora_pool``."""

from aurora_pool.cli import main

if __name__ == "__main__":
    main()
