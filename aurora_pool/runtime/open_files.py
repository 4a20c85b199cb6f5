"""How many files a process may have open: a connection is one each, and the usual limit of 1,024 is below a fleet."""

from __future__ import annotations

from aurora_pool.errors import ConfigError

FILES_PER_AGENT = 2
SPARE_FILES = 100


def files_for(agents: int) -> int:
    """How many files a fleet of this many agents needs at least."""
    return FILES_PER_AGENT * agents + SPARE_FILES


def ensure_open_files(needed: int) -> None:
    """Raise the soft limit on open files as far as it goes: ``needed`` are needed at least, and more are used.

    Raises :class:`ConfigError` with the number needed if the hard limit is below it.
    """
    try:
        import resource  # noqa: PLC0415 (not on Windows, where there is no such limit)
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(f"this fleet needs {needed} open files, and the limit is {hard}: run 'ulimit -n {needed}'")
    if soft != resource.RLIM_INFINITY and soft < open_files_limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files_limit(), hard))


def open_files_limit() -> int:
    """How many files this process may have open."""
    try:
        import resource  # noqa: PLC0415 (see ensure_open_files)
    except ImportError:
        return 8192
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)
