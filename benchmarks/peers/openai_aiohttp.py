"""The openai SDK with its own aiohttp client."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import openai

from benchmarks.peers import openai_sdk
from benchmarks.peers.shared import Client


def open_client(urls: list[str]) -> AbstractAsyncContextManager[Client]:
    """Open the client."""
    return openai_sdk.open_client(urls, http_client=openai.DefaultAioHttpClient)
