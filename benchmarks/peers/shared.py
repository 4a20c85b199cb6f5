"""What all clients of the overhead benchmark share: the cases, the prompts, the answers. Standard library only.

A client in another environment than the project's imports this and its own library, nothing else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

MODEL = "model"
MAX_TOKENS = 512
AGENTS = 8
"""How many agents there are: ports of one server process."""
IN_FLIGHT = 128
"""How many single requests are in flight at a time."""
WINDOW = 272
"""How many prompts aurora-pool gives an agent at first."""

ANSWER = 1100
"""Characters of an answer."""

_QUESTION = "Question: "
_NUMBERED = re.compile(rb"Question: (\d{8})").findall
_WORDS = "the cell answers each signal with a slow but certain change of state and stores what it has learnt "

Item = TypeVar("Item")


@dataclass(frozen=True)
class Case:
    """One row of the table: chat requests of one prompt, or list requests of ``size`` prompts.

    A call has one list for each agent, or ``lists`` of them; where it is several, the client is opened for the call,
    and closed after it.
    """

    name: str
    size: int
    chat: bool = False
    stream: bool = False
    lists: int = 1

    @property
    def in_call(self) -> int:
        """How many prompts a call has."""
        return IN_FLIGHT if self.chat else AGENTS * self.size * self.lists


CASES = (
    Case("single chat", 1, chat=True),
    Case("lists of 32", 32),
    Case("lists of 100", 100),
    Case("lists of 32, streamed", 32, stream=True),
    Case("lists of 100, streamed", 100, stream=True),
    Case("ten windows", WINDOW, lists=10),
    Case("ten windows, streamed", WINDOW, stream=True, lists=10),
)


@dataclass(frozen=True)
class Result:
    """What a client has to bring home of each prompt; token counts where the server tells them per prompt."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


Run = Callable[[Case, list[str]], Awaitable[Sequence[Any]]]


@dataclass(frozen=True)
class Client:
    """One way to send prompts.

    ``run`` is what is measured: it takes a case and prompts, and returns one answer per prompt, in their order, as
    whatever object the library gives. ``result`` reads such an object, and is not measured. ``skips`` names the cases
    that the library can't do; those with several lists to a call are for clients that say so by ``long_calls``.
    ``helper_cpu`` tells the CPU seconds that processes beside the client have used.
    """

    run: Run
    result: Callable[[Any], Result]
    versions: str
    skips: tuple[str, ...] = ()
    helper_cpu: Callable[[], float] = lambda: 0.0
    long_calls: bool = False

    @property
    def left_out(self) -> list[str]:
        """The cases that it is not measured in."""
        return [case.name for case in CASES if case.name in self.skips or (case.lists > 1 and not self.long_calls)]


OpenClient = Callable[[list[str]], AbstractAsyncContextManager[Client]]
"""Takes the agents' base URLs (``http://127.0.0.1:40001``)."""


def prompt(number: int) -> str:
    """A prompt of about 300 characters."""
    return f"{_QUESTION}{number:08d} " + (_WORDS * 3)[:280]


def prompts_in(body: bytes) -> list[bytes]:
    """The numbers of these prompts in a request body, eight digits each."""
    return _NUMBERED(body)


def answer(number: int, characters: int = ANSWER) -> str:
    """The answer to the prompt with this number."""
    return f" Answer {number:08d}{answer_end(characters)}"


def answer_end(characters: int = ANSWER) -> str:
    """What all answers have in common."""
    return (": " + _WORDS * (characters // len(_WORDS) + 1))[: characters - len(" Answer 00000000")]


def rounds(case: Case, prompts: list[str]) -> Iterator[list[str]]:
    """Cut the prompts into calls."""
    return (prompts[start : start + case.in_call] for start in range(0, len(prompts), case.in_call))


def round_robin(prompts: list[str]) -> list[list[str]]:
    """Assign a round's prompts to the agents, as a pool does."""
    return [prompts[agent::AGENTS] for agent in range(AGENTS)]


def gather_shares(lists: Iterable[Sequence[Item]]) -> list[Item]:
    """Put what the agents' lists gave into the order of the prompts again."""
    return list(itertools.chain.from_iterable(zip(*lists, strict=True)))


async def in_order(
    send: Callable[[int, str], Awaitable[Item]], prompts: list[str], workers: Callable[..., Awaitable[Any]]
) -> list[Item]:
    """Send each prompt, :data:`IN_FLIGHT` at a time; ``workers`` is ``asyncio.gather``."""
    answers: list[Any] = [None] * len(prompts)
    source = iter(enumerate(prompts))

    async def worker() -> None:
        for index, text in source:
            answers[index] = await send(index % AGENTS, text)

    await workers(*(worker() for _ in range(IN_FLIGHT)))
    return answers
