r"""The reduction tree, decided without waiting for anything: responses go in, the reduce calls that are due come out.

The groups are fixed by the leaves' positions alone: level 1 merges runs of at most ``fanin`` neighbouring leaves, of
equal length give or take one, level 2 runs of level 1's groups, and so on to the root. Nothing but its own children
holds a group back.

::

    leaf answers (level 0)   0  1  2   3  4  5   6  7        8 leaves, fanin 3
                              \ | /     \ | /     \ /
    level 1                     0         1        2         starts as soon as its own leaves are in
                                 \________|_______/
    level 2                               0                  the root

What a group hands up is a list of texts, usually one:

- none, if all its leaves were lost;
- a child's own text, uncalled for, if it is the only one;
- one summary, if its inputs fit the context; else its inputs are merged part by part, in rounds, until one is left;
- its children's texts, if the reduce call fails for good: the next group up merges them instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from aurora_pool.arguments import check_callable, check_instance, check_whole
from aurora_pool.errors import ConfigError
from aurora_pool.messages import ErrorKind, Response
from aurora_pool.patterns.templates import SEPARATOR

__all__ = ["LostLeaf", "OnLevel", "ReduceResult"]

OnLevel = Callable[[int, Sequence[str]], None]
"""Called with a level and its texts in order, once that level is complete; level 0 are the leaves' answers."""


@dataclass(frozen=True, slots=True)
class LostLeaf:
    """A leaf whose answer is not in the result: its position among the items, its name, and what went wrong."""

    index: int
    name: str
    error: str
    error_kind: ErrorKind | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.error}"


@dataclass(frozen=True, slots=True)
class ReduceResult:
    """What a reduction came to. ``success`` means that one text holds every leaf.

    - ``text``: the merged text. Where merging stopped short, the texts that are left, with a blank line in between.
    - ``error``: why it is not a success, in words; None if it is.
    - ``leaves``: how many leaves there were; ``lost``: those whose answer is missing, and why.
    - ``levels``: levels of reduction above the leaves; ``calls``: prompts sent, leaves and second tries included.
    - ``prompt_tokens``, ``completion_tokens``: over all calls, as far as the servers told them.
    """

    success: bool
    text: str
    error: str | None
    leaves: int
    lost: tuple[LostLeaf, ...]
    levels: int
    calls: int
    prompt_tokens: int
    completion_tokens: int

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ReduceCall:
    """One reduce prompt that is due: merge ``texts``, at ``level`` of the tree. The rest says where it belongs."""

    level: int
    texts: tuple[str, ...]
    group: int
    part: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """How many tokens the texts of one reduce prompt may have together, and what counts them."""

    tokens: int
    estimate: Callable[[str], int]


@dataclass(slots=True)
class _Group:
    """A group at work: what its children passed up and, once they are in, the parts of the current round."""

    children: list[list[str]]
    missing: int
    parts: list[list[str]] = field(default_factory=list)
    open_parts: int = 0
    width: int = 0
    stuck: str | None = None


def why_not(response: Response) -> str:
    """Why a response is no answer, in words.

    >>> why_not(Response(True, "", finish_reason="length", reasoning="Hm, let me see"))
    'the answer is blank: max_tokens ended it while the model was still reasoning'
    """
    if not response.blank:
        return response.error or "no answer"
    if response.finish_reason != "length":
        return "the answer is blank"
    thinking = " while the model was still reasoning" if response.reasoning else ""
    return f"the answer is blank: max_tokens ended it{thinking}"


class ReduceTree:
    """A reduction in progress.

    >>> tree = ReduceTree(2, fanin=8)
    >>> tree.leaf_done(0, Response(True, "one"))
    []
    >>> [call] = tree.leaf_done(1, Response(True, "two"))
    >>> call.level, call.texts
    (1, ('one', 'two'))
    >>> tree.call_done(call, Response(True, "both"))
    []
    >>> tree.result().text
    'both'

    ``fanin`` is the most texts in one reduce prompt; where a ``budget`` is given, they fit it as well. A reduce call
    that fails is made ``tries`` times in all. ``names`` says what to call the leaves that are lost. A blank answer
    counts as none, unless ``keep_blank``.

    Raises :class:`~aurora_pool.errors.ConfigError` for no leaves and for a fanin below 2, which would never end.
    """

    def __init__(
        self,
        leaves: int,
        fanin: int,
        *,
        budget: TokenBudget | None = None,
        tries: int = 2,
        names: Callable[[int], str] = "leaf {}".format,
        on_level: OnLevel | None = None,
        keep_blank: bool = False,
    ) -> None:
        check_whole(2, optional=False, fanin=fanin)  # one of 1 would never end
        check_callable(on_level=on_level)
        check_instance("keep_blank", keep_blank, bool, optional=False)
        if leaves < 1:
            raise ConfigError("there are no items to reduce")
        self._fanin = fanin
        self._budget = budget
        self._tries = tries
        self._names = names
        self._on_level = on_level
        self._keep_blank = keep_blank
        self._sizes = [leaves]
        while self._sizes[-1] > 1:
            self._sizes.append(-(-self._sizes[-1] // fanin))
        self._unfinished = self._sizes.copy()
        self._groups: dict[tuple[int, int], _Group] = {}
        self._handed_up: list[list[list[str]]] = []
        if on_level is not None:
            self._handed_up = [[[] for _ in range(size)] for size in self._sizes]
        self._top: list[str] = []
        self._stuck: str | None = None
        self._lost: list[LostLeaf] = []
        self._calls = self._prompt_tokens = self._completion_tokens = 0

    @property
    def calls_foreseen(self) -> int:
        """How many prompts the tree takes if every leaf is answered and every group fits one reduce prompt."""
        merges = (
            sum((parent + 1) * size // above - parent * size // above > 1 for parent in range(above))
            for size, above in itertools.pairwise(self._sizes)
        )
        return self._sizes[0] + sum(merges)

    def leaf_done(self, index: int, response: Response) -> list[ReduceCall]:
        """Record a leaf's response; return the reduce calls that are due now."""
        self._count(response)
        answered = self._answered(response)
        if not answered:
            self._lost.append(LostLeaf(index, self._names(index), why_not(response), response.error_kind))
        return self._pass_up(0, index, [response.text] if answered else [])

    def call_done(self, call: ReduceCall, response: Response) -> list[ReduceCall]:
        """Record the response to a reduce call; return the calls that are due now."""
        self._count(response)
        group = self._groups[call.level, call.group]
        if self._answered(response):
            group.parts[call.part] = [response.text]
        elif response.error_kind == "rejected" and len(call.texts) > 2:
            # Most likely longer than estimated: the next round merges fewer at a time.
            group.width = min(group.width, -(-len(call.texts) // 2))
        elif response.error_kind != "rejected" and call.attempt < self._tries:
            return [ReduceCall(call.level, call.texts, call.group, call.part, call.attempt + 1)]
        else:
            group.stuck = f"a reduce call of level {call.level} failed: {why_not(response)}"
        group.open_parts -= 1
        return [] if group.open_parts else self._next_round(call.level, call.group, group)

    def result(self) -> ReduceResult:
        """Account for every leaf, once all of them and all calls are done."""
        top = self._top
        lost = tuple(sorted(self._lost, key=lambda leaf: leaf.index))
        problems = []
        if lost:
            named = "; ".join(str(leaf) for leaf in lost[:3]) + ("; ..." if len(lost) > 3 else "")
            problems.append(f"{len(lost)} of {self._sizes[0]} leaves lost ({named})")
        if len(top) > 1:
            problems.append(f"{len(top)} texts are left unmerged ({self._stuck})")
        return ReduceResult(
            success=not problems,
            text=SEPARATOR.join(top),
            error="; ".join(problems) or None,
            leaves=self._sizes[0],
            lost=lost,
            levels=len(self._sizes) - 1,
            calls=self._calls,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )

    def _answered(self, response: Response) -> bool:
        return response.success and (self._keep_blank or not response.blank)

    def _count(self, response: Response) -> None:
        self._calls += 1
        self._prompt_tokens += response.prompt_tokens or 0
        self._completion_tokens += response.completion_tokens or 0

    def _pass_up(self, level: int, index: int, texts: list[str]) -> list[ReduceCall]:
        self._groups.pop((level, index), None)
        self._report(level, index, texts)
        if level == len(self._sizes) - 1:
            self._top = texts
            return []
        size, groups = self._sizes[level], self._sizes[level + 1]
        parent = ((index + 1) * groups - 1) // size
        first, end = parent * size // groups, (parent + 1) * size // groups
        group = self._groups.get((level + 1, parent))
        if group is None:
            group = _Group([[] for _ in range(first, end)], missing=end - first, width=self._fanin)
            self._groups[level + 1, parent] = group
        group.children[index - first] = texts
        group.missing -= 1
        if group.missing:
            return []
        group.parts = group.children
        return self._next_round(level + 1, parent, group)

    def _next_round(self, level: int, index: int, group: _Group) -> list[ReduceCall]:
        texts = [text for part in group.parts for text in part]
        group.parts = [texts] if group.stuck else self._packed(texts, group.width)
        calls = [
            ReduceCall(level, tuple(part), index, number)
            for number, part in enumerate(group.parts)
            if len(part) > 1 and not group.stuck
        ]
        if calls:
            group.open_parts = len(calls)
            return calls
        if len(texts) > 1:
            self._stuck = group.stuck or "no two of them fit into one reduce prompt"
        return self._pass_up(level, index, texts)

    def _packed(self, texts: list[str], width: int) -> list[list[str]]:
        """Cut a run of texts into parts that fit one reduce prompt each."""
        parts: list[list[str]] = []
        used = 0
        for text in texts:
            used += self._budget.estimate(SEPARATOR + text) if self._budget else 0
            if parts and len(parts[-1]) < width and (self._budget is None or used <= self._budget.tokens):
                parts[-1].append(text)
            else:
                parts.append([text])
                used = self._budget.estimate(SEPARATOR + text) if self._budget else 0
        return parts

    def _report(self, level: int, index: int, texts: list[str]) -> None:
        if self._on_level is None:
            return
        self._handed_up[level][index] = texts
        self._unfinished[level] -= 1
        if not self._unfinished[level]:
            self._on_level(level, [text for texts in self._handed_up[level] for text in texts])
            self._handed_up[level] = []
