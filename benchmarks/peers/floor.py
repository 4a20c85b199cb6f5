"""The floor: aiohttp and msgspec by hand, nothing that a loop over known-good servers could do without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from benchmarks.peers.shared import (
    MAX_TOKENS,
    MODEL,
    Case,
    Client,
    Result,
    gather_shares,
    in_order,
    round_robin,
    rounds,
)


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Message(msgspec.Struct):
    content: str


class _ChatChoice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _ChatReply(msgspec.Struct):
    choices: list[_ChatChoice]
    usage: _Usage


class _Choice(msgspec.Struct):
    index: int
    text: str
    finish_reason: str | None


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage


_encode = msgspec.json.Encoder().encode
_CHAT = msgspec.json.Decoder(_ChatReply)
_COMPLETION = msgspec.json.Decoder(_Reply)
_STREAMING = {
    "stream": True,
    "stream_interval": 1_000_000,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
_HEADERS = {"Content-Type": "application/json"}

Answer = tuple[str, str | None, int | None, int | None]


class _Floor:
    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self._session = session
        self._urls = urls

    async def run(self, case: Case, prompts: list[str]) -> list[Answer]:
        if case.chat:
            return await in_order(self._chat, prompts, asyncio.gather)
        answers: list[Answer] = []
        if case.lists > 1:
            for some in rounds(case, prompts):
                async with _open_session() as session:
                    answers += await _Floor(session, self._urls).long_call(case, some)
            return answers
        send = self._streamed if case.stream else self._whole
        for shares in map(round_robin, rounds(case, prompts)):
            replies = [send(url + "/v1/completions", some) for url, some in zip(self._urls, shares, strict=True)]
            answers += gather_shares(await asyncio.gather(*replies))
        return answers

    async def long_call(self, case: Case, prompts: list[str]) -> list[Answer]:
        """Send each agent its lists one after the other."""
        send = self._streamed if case.stream else self._whole

        async def send_lists(url: str, some: list[str]) -> list[Answer]:
            answers: list[Answer] = []
            for start in range(0, len(some), case.size):
                answers += await send(url + "/v1/completions", some[start : start + case.size])
            return answers

        return gather_shares(await asyncio.gather(*map(send_lists, self._urls, round_robin(prompts))))

    async def _chat(self, agent: int, text: str) -> Answer:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": MAX_TOKENS}
        url = self._urls[agent] + "/v1/chat/completions"
        async with self._session.post(url, data=_encode(body), headers=_HEADERS) as response:
            reply = _CHAT.decode(await response.read())
        choice, usage = reply.choices[0], reply.usage
        return choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens

    async def _whole(self, url: str, prompts: list[str]) -> list[Answer]:
        body = {"model": MODEL, "prompt": prompts, "max_tokens": MAX_TOKENS}
        async with self._session.post(url, data=_encode(body), headers=_HEADERS) as response:
            reply = _COMPLETION.decode(await response.read())
        answers: list[Any] = [None] * len(prompts)
        for choice in reply.choices:
            answers[choice.index] = choice.text, choice.finish_reason, None, None
        return answers

    async def _streamed(self, url: str, prompts: list[str]) -> list[Answer]:
        body = {"model": MODEL, "prompt": prompts, "max_tokens": MAX_TOKENS, **_STREAMING}
        answers: list[Any] = [None] * len(prompts)
        texts = [""] * len(prompts)
        rest = b""
        async with self._session.post(url, data=_encode(body), headers=_HEADERS) as response:
            while chunk := await response.content.readany():
                *events, rest = (rest + chunk).split(b"\n\n")
                for event in events:
                    if event == b"data: [DONE]":
                        continue
                    reply = _COMPLETION.decode(event[6:])
                    for choice in reply.choices:
                        texts[choice.index] += choice.text
                        if choice.finish_reason is not None:
                            tokens = reply.usage.prompt_tokens, reply.usage.completion_tokens
                            answers[choice.index] = texts[choice.index], choice.finish_reason, *tokens
        return answers


def _open_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=1 << 18)


@asynccontextmanager
async def open_client(urls: list[str]) -> AsyncIterator[Client]:
    """Open the client."""
    async with _open_session() as session:
        versions = f"aiohttp {aiohttp.__version__}, msgspec {msgspec.__version__}"
        yield Client(_Floor(session, urls).run, lambda answer: Result(*answer), versions, long_calls=True)
