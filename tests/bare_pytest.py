"""How tests start pytest: of all plugins that are installed, only what this package brings, and what that needs."""

from __future__ import annotations

from importlib.metadata import entry_points

BARE = [f"-pno:{each.name}" for each in entry_points(group="pytest11") if each.name not in {"aurora_pool", "asyncio"}]
"""Options; the others, of packages that only this project's tests need, take more than half of the time to start."""
