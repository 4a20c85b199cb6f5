"""Settings of the whole suite."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import settings

from aurora_pool.testing.clock import loop_factories


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let tests run in the loop that ``aurora-pool run`` uses; in real time, so only those that wait for little."""
    parser.addoption("--uvloop", action="store_true", help="run async tests on uvloop, in real time")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests marked simulated_clock in simulated time; with ``--uvloop``, all of them on that."""
    if config.getoption("--uvloop"):
        import uvloop

        return {"uvloop": uvloop.new_event_loop}
    return loop_factories(config, item)


def pytest_collection() -> None:
    """Look for no garbage while thousands of tests are collected: all of them stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for it again, but never among the tests and modules."""
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Give the package's logger back as it was: commands that run in this process make it their own."""
    log = logging.getLogger("aurora_pool")
    handlers, propagate, level = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket of a local S3 server."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"research-{port}"  # what a server holds outlives it in this process
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


# The same examples in every run, and no clock that decides: a red test is red again, a slow machine is no failure.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
