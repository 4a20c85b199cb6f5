"""A blackboard: roles that read a shared text and add to it, round by round, until it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aurora_pool.arguments import (
    check_callable,
    check_each_instance,
    check_instance,
    check_many,
    check_tag,
    check_whole,
)
from aurora_pool.errors import ConfigError, NoAgentsError
from aurora_pool.messages import ErrorKind, Prompt, Response, Sampling
from aurora_pool.patterns.templates import SEPARATOR, render
from aurora_pool.patterns.text_pool import TextPool
from aurora_pool.pool_options import CallOptions

__all__ = ["Blackboard", "BlackboardResult", "Contribution", "LostContribution", "Role"]


@dataclass(frozen=True, slots=True)
class Role:
    r"""Who writes into a section, and what it is asked.

    >>> critic = Role("critic", "critique", "Find what is wrong in:\n{ideas}", tag=("role", "critic"), count=3)

    In ``prompt``, ``{<name of a section>}`` stands for that section's text, ``{round}`` for the round, from 1. ``tag``
    limits the role to the agents that carry it (``role=critic`` in the hostfile). ``count`` contributions are asked for
    in each round, spread over those agents. ``last`` shows it only that many contributions of each section, the newest,
    so that its prompt fits the model's context however long the board gets. What is written is added to the section, or
    replaces it if ``replace``: a section that is rewritten each round does not outgrow the context either. Raises
    :class:`~aurora_pool.errors.ConfigError` for invalid arguments.
    """

    name: str
    section: str
    prompt: str
    tag: tuple[str, str] | None = None
    count: int = 1
    replace: bool = False
    last: int | None = None
    max_tokens: int | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        for name in ("name", "section", "prompt"):
            check_instance(name, getattr(self, name), str, optional=False)
        check_tag(self.tag)
        check_whole(1, optional=False, count=self.count)
        check_whole(1, last=self.last)
        check_instance("replace", self.replace, bool, optional=False)
        CallOptions(self.max_tokens, self.sampling, batched=True)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a role wrote, and when; round 0 is what stood on the board at first."""

    section: str
    text: str
    role: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class LostContribution:
    """A contribution that did not come: its role and round, and what went wrong, as in a response."""

    role: str
    round: int
    error: str
    error_kind: ErrorKind | None = None


@dataclass(frozen=True, slots=True)
class BlackboardResult:
    """How a run ended. ``converged`` is False where the rounds ran out, or every contribution of a round was lost."""

    converged: bool
    rounds: int
    sections: Mapping[str, str]
    lost: tuple[LostContribution, ...]


class Blackboard:
    """Sections of text, and the roles that work on them.

    ::

        sections = {"question": "Why is the sky dark at night?", "ideas": "", "critique": ""}
        board = Blackboard(sections, roles=[thinker, critic])
        result = await board.run(pool, rounds=4)
        print(result.sections["ideas"])

    ``sections`` gives each section's first text, or only the names. Raises :class:`~aurora_pool.errors.ConfigError` for
    a role whose section the board does not have, or whose prompt reads none of them.
    """

    def __init__(self, sections: Mapping[str, str] | Iterable[str], roles: Sequence[Role]) -> None:
        check_many(sections=sections, roles=roles)
        check_each_instance("roles", roles := list(roles), Role)
        texts = sections if isinstance(sections, Mapping) else dict.fromkeys(sections, "")
        self._sections = {name: [Contribution(name, text)] if text else [] for name, text in texts.items()}
        self._roles = tuple(roles)
        self._rounds = 0
        self._check()

    def text(self, section: str, last: int | None = None) -> str:
        """Give what a section says now: its contributions, or the ``last`` ones, with a blank line in between."""
        contributions = self._sections[section]
        return SEPARATOR.join(each.text for each in (contributions if last is None else contributions[-last:]))

    def contributions(self, section: str) -> tuple[Contribution, ...]:
        """Give what a section is made of, the oldest first."""
        return tuple(self._sections[section])

    async def run(
        self,
        pool: TextPool,
        rounds: int,
        *,
        converged: Callable[[Blackboard], bool] | None = None,
        sampling: Sampling | None = None,
    ) -> BlackboardResult:
        """Work on the board for at most ``rounds`` more rounds.

        In a round, all roles see the board as the round found it, and write at the same time. Their contributions go up
        in the order of the roles; empty ones and repetitions of what the section already says are left out. The board
        has converged when a round changes nothing, or when ``converged(board)`` says so after a round. A lost
        contribution is named in the result; a round that loses all of them ends the run.

        Raises :class:`~aurora_pool.errors.NoAgentsError` if no agent has a role's tag.
        """
        check_whole(1, optional=False, rounds=rounds)
        check_callable(converged=converged)
        CallOptions(None, sampling, batched=True)
        await pool.start()
        teams = self._teams(pool)
        lost: list[LostContribution] = []
        for _ in range(rounds):
            self._rounds += 1
            before = {name: self.text(name) for name in self._sections}
            written = await self._ask(teams, sampling)
            failures = [(role, response) for role, response in written if not response.success]
            lost += [
                LostContribution(role.name, self._rounds, response.error or "no answer", response.error_kind)
                for role, response in failures
            ]
            if len(failures) == len(written):
                return self._result(False, lost)
            self._put_up(written)
            unchanged = before == {name: self.text(name) for name in self._sections}
            if unchanged or (converged is not None and converged(self)):
                return self._result(True, lost)
        return self._result(False, lost)

    def _result(self, converged: bool, lost: list[LostContribution]) -> BlackboardResult:
        return BlackboardResult(
            converged, self._rounds, {name: self.text(name) for name in self._sections}, tuple(lost)
        )

    def _teams(self, pool: TextPool) -> list[tuple[TextPool, list[Role]]]:
        """Say which agents work for which roles; roles without a tag have the whole pool."""
        teams = []
        for tag in dict.fromkeys(role.tag for role in self._roles):
            team = pool if tag is None else pool.by_tag(*tag)
            roles = [role for role in self._roles if role.tag == tag]
            if tag is not None and not team.size:
                raise NoAgentsError(f"no agent has the tag {tag[0]}={tag[1]} of role {roles[0].name!r}")
            teams.append((team, roles))
        return teams

    async def _ask(
        self, teams: list[tuple[TextPool, list[Role]]], sampling: Sampling | None
    ) -> list[tuple[Role, Response]]:
        async def ask(team: TextPool, roles: list[Role]) -> dict[str, list[Response]]:
            askers = [role for role in roles for _ in range(role.count)]
            prompts = [self._prompt(role) for role in askers]
            answers: dict[str, list[Response]] = {role.name: [] for role in roles}
            for role, response in zip(askers, await team.send_all_batched(prompts, sampling=sampling), strict=True):
                answers[role.name].append(response)
            return answers

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(team, roles)) for team, roles in teams]
        by_role = {name: responses for task in tasks for name, responses in task.result().items()}
        return [(role, response) for role in self._roles for response in by_role[role.name]]

    def _prompt(self, role: Role) -> Prompt:
        board = {name: self.text(name, role.last) for name in self._sections}
        return Prompt(render(role.prompt, **board, round=self._rounds), role.sampling, role.max_tokens)

    def _put_up(self, written: list[tuple[Role, Response]]) -> None:
        for role in self._roles:
            texts = [response.text.strip() for by, response in written if by is role and response.success]
            section = [] if role.replace and any(texts) else self._sections[role.section]
            for text in texts:
                if text and text not in {contribution.text for contribution in section}:
                    section.append(Contribution(role.section, text, role.name, self._rounds))
            self._sections[role.section] = section

    def _check(self) -> None:
        if not self._roles:
            raise ConfigError("a blackboard needs at least one role")
        if "round" in self._sections:
            raise ConfigError("a section can't be called 'round': {round} stands for the number of the round")
        for role in self._roles:
            if role.section not in self._sections:
                known = ", ".join(self._sections)
                raise ConfigError(f"role {role.name!r} writes into section {role.section!r}; the board has {known}")
            if not any(f"{{{name}}}" in role.prompt for name in self._sections):
                raise ConfigError(f"the prompt of role {role.name!r} reads no section of the board")
            if sum(role.name == other.name for other in self._roles) > 1:
                raise ConfigError(f"two roles are called {role.name!r}")
