"""An instant server for the benchmarks of overhead and scale: many ports, answers put together of encoded parts.

    python -m benchmarks.overhead_server [--ports 8] [--answer 1100] [--delay 0]

It speaks what vLLM 0.32 does on the wire (chunked events, two per choice, the usage of each choice in its events), and
counts the requests by their shape, so that nobody can win by sending other requests than the rest. One line on standard
output has the ports; each line on standard input is answered with the counts since the last.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import cast

import uvloop

from aurora_pool.runtime.open_files import ensure_open_files
from benchmarks.peers.shared import AGENTS, ANSWER, MODEL, answer_end, prompts_in

PROMPT_TOKENS = 70
COMPLETION_TOKENS = 240
FINGERPRINT = "vllm-0.32.0-9f2f614b"


def usage(prompts: int = 1) -> dict[str, int]:
    """The token counts of these prompts together."""
    prompt_tokens, completion_tokens = prompts * PROMPT_TOKENS, prompts * COMPLETION_TOKENS
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _head(kind: str, length: str) -> bytes:
    lines = (
        "HTTP/1.1 200 OK",
        "date: Sat, 21 Nov 2026 10:00:00 GMT",
        "server: uvicorn",
        length,
        f"content-type: {kind}",
    )
    return "\r\n".join((*lines, "", "")).encode()


def _json_reply(body: bytes) -> bytes:
    return _head("application/json", f"content-length: {len(body)}") + body


_NUMBER = "<number>"
"""Stands for what differs between answers, in what is encoded beforehand."""


def _cut(value: object) -> list[bytes]:
    """Encode a value once, and cut it where the numbers belong."""
    return _encode(value).split(_NUMBER.encode())


@functools.cache
def _chat_parts() -> list[bytes]:
    message: dict[str, object] = {
        "role": "assistant",
        "content": f" Answer {_NUMBER}{answer_end(Settings.answer)}",
        "refusal": None,
        "annotations": None,
    }
    message |= {"audio": None, "function_call": None, "tool_calls": [], "reasoning": None}
    choice: dict[str, object] = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    choice |= {"stop_reason": None, "token_ids": None}
    reply: dict[str, object] = {"id": "chatcmpl-9d1b2f4e7a", "object": "chat.completion", "created": 1795255200}
    reply |= {"model": MODEL, "choices": [choice], "service_tier": None, "system_fingerprint": FINGERPRINT}
    reply |= {"usage": usage() | {"prompt_tokens_details": None}, "prompt_logprobs": None, "kv_transfer_params": None}
    return _cut(reply)


def chat_reply(numbers: Sequence[bytes]) -> bytes:
    """The reply to a chat request."""
    return _json_reply(numbers[0].join(_chat_parts()))


def _choice(text: str, finish_reason: str | None) -> dict[str, object]:
    choice: dict[str, object] = {
        "index": _NUMBER,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
        "stop_reason": None,
    }
    return choice | {"prompt_token_ids": None, "token_ids": None}


_COMPLETION = {"id": "cmpl-9d1b2f4e7a", "object": "text_completion", "created": 1795255200, "model": MODEL}


@functools.cache
def _list_parts() -> tuple[bytes, list[bytes]]:
    """How the reply to a list request begins, and the parts of a choice of it."""
    begun = _encode(_COMPLETION)[:-1] + b',"choices":['
    choice = _choice(f" Answer {_NUMBER}{answer_end(Settings.answer)}", "stop") | {"prompt_logprobs": None}
    return begun, _cut(choice)


def list_reply(numbers: Sequence[bytes]) -> bytes:
    """The reply to a list request."""
    begun, (index, text, rest) = _list_parts()
    before, after = index.removesuffix(b'"'), text.removeprefix(b'"')
    choices = [b"%b%d%b%b%b" % (before, slot, after, number, rest) for slot, number in enumerate(numbers)]
    ended = {"service_tier": None, "system_fingerprint": FINGERPRINT, "usage": usage(len(numbers))}
    return _json_reply(begun + b",".join(choices) + b"]," + _encode(ended)[1:])


@functools.cache
def _stream_parts() -> tuple[list[bytes], list[bytes]]:
    """The parts of a choice's two events."""
    first = usage() | {"completion_tokens": 1, "total_tokens": PROMPT_TOKENS + 1}
    last = {"choices": [_choice(f" {_NUMBER}{answer_end(Settings.answer)}", "stop")], "usage": usage()}
    last["system_fingerprint"] = FINGERPRINT
    return _cut(_COMPLETION | {"choices": [_choice(" Answer", None)], "usage": first}), _cut(_COMPLETION | last)


def list_stream(numbers: Sequence[bytes]) -> bytes:
    """The reply to a streamed list request: two events per choice, each a chunk of its own."""
    (first_before, first_after), (before, middle, after) = _stream_parts()
    first_before, first_after = first_before.removesuffix(b'"'), first_after.removeprefix(b'"')
    before, middle = before.removesuffix(b'"'), middle.removeprefix(b'"')
    events = [b"%b%d%b" % (first_before, slot, first_after) for slot in range(len(numbers))]
    events += [b"%b%d%b%b%b" % (before, slot, middle, number, after) for slot, number in enumerate(numbers)]
    events += [_encode(_COMPLETION | {"choices": [], "usage": usage(len(numbers))}), b"[DONE]"]
    chunks = [b"%x\r\ndata: %b\n\n\r\n" % (len(event) + 8, event) for event in events]
    head = _head("text/event-stream; charset=utf-8", "transfer-encoding: chunked")
    return head + b"".join(chunks) + b"0\r\n\r\n"


MODELS = _json_reply(_encode({"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 8192}]}))
HEALTH = _head("text/plain", "content-length: 0")

shapes: Counter[str] = Counter()


class Settings:
    """What the command line says."""

    answer = ANSWER
    """Characters of an answer."""
    delay = 0.0
    """Seconds after which requests are answered."""


class Connection(asyncio.Protocol):
    """One client connection; requests come one after another on it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        received = self.received + data if self.received else data
        head_end = received.find(b"\r\n\r\n")
        if head_end >= 0:
            head = received[:head_end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(received) >= head_end + 4 + length:
                self.received = b""
                path = head.split(b" ", 2)[1]
                answered = reply(path, received[head_end + 4 :])
                if Settings.delay and path.endswith(b"/completions"):
                    asyncio.get_running_loop().call_later(Settings.delay, self._answer, answered)
                else:
                    self.transport.write(answered)
                return
        self.received = received

    def _answer(self, answered: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answered)


def reply(path: bytes, body: bytes) -> bytes:
    """The reply to a request."""
    if path.endswith(b"/completions"):
        numbers = prompts_in(body) or [b"00000000"]
        if path.endswith(b"/chat/completions"):
            shapes["chat"] += 1
            return chat_reply(numbers)
        if b'"stream":true' in body or b'"stream": true' in body:
            shapes[f"list of {len(numbers)}, streamed"] += 1
            return list_stream(numbers)
        shapes[f"list of {len(numbers)}"] += 1
        return list_reply(numbers)
    if path.endswith(b"/metrics"):
        return metrics()
    return MODELS if path.endswith(b"/models") else HEALTH


def metrics() -> bytes:
    """Counters of an engine that works, for a pool that checks an agent because it has sent nothing for long."""
    body = (
        f'vllm:num_requests_running{{engine="0"}} 1.0\nvllm:generation_tokens_total{{engine="0"}} {time.monotonic()}\n'
    )
    return _head("text/plain", f"content-length: {len(body)}") + body.encode()


def _tell_shapes() -> None:
    if not sys.stdin.readline():
        asyncio.get_running_loop().stop()
        return
    print(json.dumps(shapes), flush=True)
    shapes.clear()


async def serve(ports: int) -> None:
    """Serve until standard input ends."""
    ensure_open_files(8 * ports + 100)
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Connection, "127.0.0.1", 0, backlog=512) for _ in range(ports)]
    loop.add_reader(sys.stdin.fileno(), _tell_shapes)
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ports", type=int, default=AGENTS)
    parser.add_argument("--answer", type=int, default=ANSWER)
    parser.add_argument("--delay", type=float, default=0.0)
    arguments = parser.parse_args()
    Settings.answer, Settings.delay = arguments.answer, arguments.delay
    try:
        uvloop.run(serve(arguments.ports))
    except RuntimeError:  # the loop was stopped
        sys.exit(0)


if __name__ == "__main__":
    main()
