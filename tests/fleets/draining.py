"""An engine that answers ``/slow`` only once it is drained: it has been asked for its metrics three times since.

Nothing asks for these before. Called with an address, a port, and whether it has vLLM's counters.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

POLLS = 3
PATIENCE = 200.0


def engine(*, counters: bool) -> dict[str, str]:
    """Describe it, for a fleet's file."""
    command = f"{sys.executable} {Path(__file__).resolve()} {{host}} {{port}} {'counters' if counters else ''}"
    return {"kind": "command", "command": command}


@contextmanager
def request_in_flight(line: str) -> Iterator[Future[bytes]]:
    """Ask the agent of a hostfile line for what takes until it is drained; it has begun when the context does."""
    host, port = line.split()[:2]
    with ThreadPoolExecutor(1) as threads:
        reply = threads.submit(_get, host, port, "/slow")
        assert json.loads(_get(host, port, "/begun")) is True
        yield reply


def _get(host: str, port: str, path: str) -> bytes:
    with closing(http.client.HTTPConnection(host, int(port), timeout=PATIENCE)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def _serve(address: str, port: int, *, counters: bool) -> None:
    begun, drained, written = threading.Event(), threading.Event(), threading.Event()
    polls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 200, ""
            if self.path == "/begun":
                body = json.dumps(begun.wait(PATIENCE))
            elif self.path == "/slow":
                begun.set()
                drained.wait(PATIENCE)
                body = "whole"
            elif self.path == "/metrics":
                running = float(begun.is_set() and not written.is_set())
                status, body = (200, f"vllm:num_requests_running {running}\n") if counters else (404, "")
                polls.append(self.path)
                if len(polls) >= POLLS:
                    drained.set()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())
            if self.path == "/slow":
                written.set()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            pass

    ThreadingHTTPServer((address, port), Handler).serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), counters="counters" in sys.argv[3:])
