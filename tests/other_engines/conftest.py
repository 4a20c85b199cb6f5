from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.other_engines.servers import ENGINES, Engine, running


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Each engine's server, started once."""
    with running(request.param, tmp_path_factory.mktemp("engine") / "log") as found:
        yield found
