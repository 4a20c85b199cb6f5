"""How much of what prompts share is computed more than once, and how long that takes, in virtual time.

    python -m benchmarks.prefix                    # all tables, about 5 minutes
    python -m benchmarks.prefix --only shuffled    # one of them

16 servers that schedule and cache as vLLM does: see :mod:`benchmarks.makespan`. *Computed / least* is the prompt tokens
that they computed, by their own counters, over those that would be if each shared block were computed once in the whole
fleet. The bound is the time of perfectly divided work with every slot and every budget full, and nothing computed
twice. Beside the pool stand the same pool with ``prefix="off"``, and lists sent at once to agents that are drawn at
random, found by consistent hashing of the first 1,000 characters, or assigned by hand.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from aurora_pool.testing.profile import AgentProfile
from aurora_pool.testing.virtual import VirtualFleet, VirtualPrompt
from aurora_pool.testing.virtual_pool import VirtualPool
from benchmarks.printing import machine, table
from benchmarks.virtual_baselines import LIST_LIMIT, Baseline

AGENTS = 16
SEED = 1
CHARACTERS = 4
"""Of a token."""
BLOCK = 16 * CHARACTERS
PROFILE = AgentProfile(kv_blocks=24_576)
"""A cache of 393,216 tokens, as a model of 8 billion parameters leaves on an 80 GB card."""
WORDS = [format(number, "x") for number in range(4096)]

Hand = Callable[[int, VirtualPrompt], int]
"""The agent of a prompt, by its place in the call and by what it is."""


@dataclass
class Case:
    """One table: calls that follow each other, each a list of prompts, and an assignment by hand for each call.

    ``computed`` and ``makespan`` are the most that the pool may have, of the least, or ``of_hand`` of the best hand.
    """

    calls: list[list[VirtualPrompt]]
    hands: dict[str, Hand]
    computed: float | None = None
    makespan: float | None = None
    of_hand: bool = False
    as_off: bool = False


# -- prompts ----------------------------------------------------------------------------------------------------------


def text_of(draw: random.Random, tokens: int) -> str:
    """Write a text of a number of tokens."""
    return " ".join(draw.choices(WORDS, k=tokens))[: tokens * CHARACTERS].ljust(tokens * CHARACTERS, ".")


def prompt_of(draw: random.Random, text: str, shared: int | None = None) -> VirtualPrompt:
    """Make a prompt of a text whose first ``shared`` characters others may begin with as well (None: all)."""
    shared = len(text) if shared is None else shared
    keys: list[int] = []
    for end in range(BLOCK, shared + 1, BLOCK):
        keys.append(hash((keys[-1] if keys else 0, text[end - BLOCK : end])))
    answer = max(1, round(64 * draw.lognormvariate(-0.045, 0.3)))
    return VirtualPrompt(answer, len(text) // CHARACTERS, keys=keys, text=text)


def documents(shuffled: bool) -> Case:
    """2,500 documents of about 800 tokens, 16 questions about each, behind instructions of 100 tokens."""
    draw = random.Random(SEED)
    header = text_of(draw, 100)
    prompts = []
    for _ in range(2500):
        document = header + text_of(draw, draw.randrange(600, 1000))
        first = prompt_of(draw, document + text_of(draw, 25), len(document))
        prompts.append(first)
        for _ in range(15):
            other = prompt_of(draw, text_of(draw, 25), 0)
            other.keys, other.text = first.keys, document + other.text
            other.prompt_tokens = first.prompt_tokens
            prompts.append(other)
    places = list(range(len(prompts)))
    if shuffled:
        draw.shuffle(places)
    return Case(
        [[prompts[place] for place in places]],
        {"each document on one": lambda index, _: places[index] // 16 % AGENTS},
        computed=1.15 if shuffled else 1.10,
        makespan=1.15,
    )


def conversations() -> Case:
    """4,000 conversations of 8 turns, each turn a prompt with all that was said before."""
    draw = random.Random(SEED)
    header = text_of(draw, 300)
    prompts = []
    for _ in range(4000):
        said = header
        for _ in range(8):
            said += text_of(draw, draw.randrange(80, 240))
            prompts.append(prompt_of(draw, said))
    return Case([prompts], {"each conversation on one": lambda index, _: index // 8 % AGENTS}, 1.10, 1.15)


def one_header() -> Case:
    """16,000 prompts behind the same 1,000 tokens."""
    draw = random.Random(SEED)
    header = text_of(draw, 1000)
    prompts = [prompt_of(draw, header + text_of(draw, 100), len(header)) for _ in range(16_000)]
    return Case([prompts], {"round-robin": lambda index, _: index % AGENTS}, as_off=True)


def nothing_shared() -> Case:
    """16,000 prompts of 300 tokens that have nothing in common."""
    draw = random.Random(SEED)
    prompts = [prompt_of(draw, text_of(draw, 300), 0) for _ in range(16_000)]
    return Case([prompts], {"round-robin": lambda index, _: index % AGENTS}, as_off=True)


def leave_one_out() -> Case:
    """256 labelled examples of 20 tokens: each is asked for after all others; 20 rounds, one label changes in each."""
    draw = random.Random(SEED)
    header = text_of(draw, 50)
    size = 20 * CHARACTERS
    examples = [text_of(draw, 18) for _ in range(256)]
    labels = ["LABEL--0"] * len(examples)
    calls = []
    for turn in range(20):
        shown = [example + label for example, label in zip(examples, labels, strict=True)]
        whole = "".join(shown)
        calls.append(
            [
                prompt_of(draw, header + whole[: size * i] + whole[size * (i + 1) :] + examples[i])
                for i in range(len(examples))
            ]
        )
        labels[draw.randrange(len(labels))] = f"LABEL-{turn + 1:>2}"
    share = len(examples) // AGENTS
    hands: dict[str, Hand] = {
        "neighbours on one": lambda index, _: index // share,
        "i % 16": lambda index, _: index % AGENTS,
    }
    return Case(calls, hands, computed=1.3, of_hand=True)


def one_document() -> Case:
    """48,000 prompts, 90% of them about one document of 700 tokens, the others about 300 more."""
    draw = random.Random(SEED)
    texts = [text_of(draw, 700) for _ in range(301)]
    chosen = [0 if draw.random() < 0.9 else draw.randrange(1, 301) for _ in range(48_000)]
    prompts = [prompt_of(draw, texts[number] + text_of(draw, 25), len(texts[number])) for number in chosen]
    return Case([prompts], {"the one spread, others on one": lambda i, _: (chosen[i] or i) % AGENTS}, makespan=1.15)


CASES: dict[str, Callable[[], Case]] = {
    "file order": lambda: documents(shuffled=False),
    "shuffled": lambda: documents(shuffled=True),
    "conversations": conversations,
    "one header": one_header,
    "leave one out": leave_one_out,
    "90% on one": one_document,
    "nothing shared": nothing_shared,
}


# -- who sends them ---------------------------------------------------------------------------------------------------


class Assigned(Baseline):
    """All prompts at once, each to the agent that was chosen for it, in lists as long as vLLM takes."""

    def __init__(self, fleet: VirtualFleet, agent_of: Hand) -> None:
        super().__init__(fleet)
        self._agent_of = agent_of

    def begin(self, prompts: list[VirtualPrompt]) -> None:
        """Send each agent what is its own."""
        lists: list[list[VirtualPrompt]] = [[] for _ in self.fleet.agents]
        for index, prompt in enumerate(prompts):
            lists[self._agent_of(index, prompt)].append(prompt)
        for agent, own in enumerate(lists):
            for first in range(0, len(own), LIST_LIMIT):
                self.send(agent, own[first : first + LIST_LIMIT])


def consistent_hashing() -> Hand:
    """Choose by the first 1,000 characters, on a ring on which each agent has 100 places."""

    def place(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())

    ring = sorted((place(f"{agent}-{number}"), agent) for agent in range(AGENTS) for number in range(100))
    starts = [start for start, _ in ring]
    return lambda _, prompt: ring[bisect.bisect(starts, place(prompt.text[:1000])) % len(ring)][1]


@dataclass
class Figures:
    """What a way of sending came to."""

    computed: int
    makespan: float
    requests: int
    microseconds: float = 0.0


def measured(fleet: VirtualFleet, calls: Sequence[list[VirtualPrompt]], client: VirtualPool | Baseline) -> Figures:
    """Send calls one after the other; return the figures."""
    microseconds = 0.0
    if isinstance(client, VirtualPool):
        for prompts in calls:
            report = client.run(prompts)
        total = sum(map(len, calls))
        assert report.answered == total
        assert report.lost == report.duplicated == 0
        requests, makespan, microseconds = report.requests, report.makespan, report.policy_seconds / total * 1e6
    else:
        for prompts in calls:
            client.run(prompts)
        requests, makespan = client.requests, client.ended_at
    computed = sum(agent.engine.prefix_queries - agent.engine.prefix_hits for agent in fleet.agents)
    return Figures(computed, makespan, requests, microseconds)


def least_tokens(calls: Sequence[list[VirtualPrompt]]) -> int:
    """The prompt tokens to compute if every shared block is computed once."""
    shared: set[object] = set()
    own = 0
    for prompt in (prompt for prompts in calls for prompt in prompts):
        own += prompt.prompt_tokens - len(prompt.keys) * 16
        shared.update(prompt.keys)
    return own + len(shared) * 16


HEADER = ("case", "sent by", "computed", "/ least", "makespan", "/ bound", "requests", "us/prompt")


def run_case(name: str) -> tuple[list[list[str]], list[str]]:
    """Run a case in all ways; return its rows, and what it misses of the goals."""
    case = CASES[name]()
    draw = random.Random(SEED)
    fleets = (VirtualFleet([1.0] * AGENTS, profile=PROFILE) for _ in count())
    least = least_tokens(case.calls)
    bound = sum(next(fleets).bound(prompts) for prompts in case.calls)
    rows: list[list[str]] = []

    def run(way: str, client: VirtualPool | Baseline) -> Figures:
        figures = measured(client.fleet, case.calls, client)
        rows.append(
            [
                "" if rows else name,
                way,
                f"{figures.computed:,}",
                f"{figures.computed / least:.3f}",
                f"{figures.makespan:.2f}",
                "" if len(case.calls) > 1 else f"{figures.makespan / bound:.3f}",
                f"{figures.requests:,}",
                f"{figures.microseconds:.1f}" if figures.microseconds else "",
            ]
        )
        return figures

    auto = run('the pool, prefix="auto"', VirtualPool(next(fleets), seed=SEED))
    off = run('the pool, prefix="off"', VirtualPool(next(fleets), seed=SEED, prefix=False))
    run("at random", Assigned(next(fleets), lambda *_: draw.randrange(AGENTS)))
    run("consistent hashing", Assigned(next(fleets), consistent_hashing()))
    by_hand = [run(f"by hand: {way}", Assigned(next(fleets), hand)) for way, hand in case.hands.items()]
    return rows, list(_missed(name, case, auto, off, by_hand, least, bound))


def _missed(
    name: str, case: Case, auto: Figures, off: Figures, by_hand: list[Figures], least: int, bound: float
) -> Iterator[str]:
    best = min(figures.computed for figures in by_hand) if case.of_hand else least
    if case.computed is not None and auto.computed > case.computed * best:
        yield f"{name}: {auto.computed / best:.3f} of the least computed, expected at most {case.computed}"
    if case.makespan is not None and auto.makespan > case.makespan * bound:
        yield f"{name}: a makespan of {auto.makespan / bound:.3f}, expected at most {case.makespan}"
    if case.as_off and (auto.requests, auto.makespan) != (off.requests, off.makespan):
        yield f'{name}: {auto.requests} requests and {auto.makespan:.3f} s, not as with prefix="off"'


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, help="only this table")
    arguments = parser.parse_args()
    began = time.perf_counter()
    names = [arguments.only] if arguments.only else list(CASES)
    print(machine())
    missed: list[str] = []
    rows: list[list[str]] = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for own, misses in pool.imap(run_case, names):
            rows += own
            missed += misses
    print(table(HEADER, rows))
    print(f"({time.perf_counter() - began:.0f} s)")
    print("\n".join(["missed:", *missed]) if missed else "every promised figure is reached")


if __name__ == "__main__":
    main()
