"""Whether a reply is of the model that was asked for, by the name in it.

A server answers under the first of its names, whichever was asked for; ``/v1/models`` lists them, those of one model
with the same ``root``. An agent that was restarted under another model, and checks no names, gives itself away so.
"""

from __future__ import annotations

from collections.abc import Sequence

from aurora_pool.errors import WrongModel
from aurora_pool.wire.model_list import ServedModel


class ServedNames:
    """The names that each agent's replies may bear."""

    def __init__(self) -> None:
        self._listed: dict[int, Sequence[ServedModel]] = {}
        self._known: dict[tuple[int, str], set[str]] = {}

    def list(self, agent: int, models: Sequence[ServedModel]) -> None:
        """Record what an agent's ``/v1/models`` says now."""
        self._listed[agent] = models
        for key in [key for key in self._known if key[0] == agent]:
            del self._known[key]

    def check(self, agent: int, wanted: str, name: str | None) -> None:
        """Raise :class:`WrongModel` if a reply with this name is of another model than the one wanted.

        Of an agent that has not reported its names, the first reply's name is taken for its model's.
        """
        if not name or name == wanted or not wanted:
            return
        known = self._known.get((agent, wanted))
        if known is None:
            known = self._known[agent, wanted] = self._names_of(agent, wanted, name)
        if name not in known and not any(_much_the_same(name, other) for other in (wanted, *known)):
            raise WrongModel(f"it answers as {name[:200]!r}, though {wanted!r} was asked for")

    def _names_of(self, agent: int, wanted: str, name: str) -> set[str]:
        listed = self._listed.get(agent)
        if listed is None:
            return {name}
        roots = {model.root or model.id for model in listed if model.id == wanted}
        names = {model.id for model in listed if (model.root or model.id) in roots}
        return names | roots


def _much_the_same(name: str, other: str) -> bool:
    """Whether gateways write one of these names for the other: without its owner, or with the date of its version."""
    ends = [part.rsplit("/", 1)[-1].casefold() for part in (name, other)]
    shorter, longer = sorted(ends, key=len)
    return bool(shorter) and (longer == shorter or longer.startswith((f"{shorter}-20", f"{shorter}@", f"{shorter}:")))
