"""The lowest versions that pyproject.toml declares, as constraints for pip: ``python tests/lowest.py > lowest.txt``.

pip takes the newest versions that fit, so a bound that is too low breaks nobody but the user who has that version.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
_BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)")
APART = {"dev", "docs", "ray", "test-ray"}
"""Extras that are not installed with the others."""


def lowest(pyproject: str) -> list[str]:
    """Pin each direct dependency to its lower bound.

    >>> lowest('[project]\\ndependencies = ["aiohttp>=3.14", "msgspec"]')
    ['aiohttp==3.14']
    """
    project = tomllib.loads(pyproject)["project"]
    extras = project.get("optional-dependencies", {})
    wanted = [*project["dependencies"], *(d for name, ds in extras.items() if name not in APART for d in ds)]
    bounds = {match[1]: match[2] for match in map(_BOUND.match, wanted) if match}
    return sorted(f"{name}=={bound}" for name, bound in bounds.items())


if __name__ == "__main__":
    print("\n".join(lowest(PYPROJECT.read_text(encoding="utf-8"))))  # noqa: T201
