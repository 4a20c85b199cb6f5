"""The description of a fleet: a YAML file, or a model's name."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from aurora_pool.engine_names import ENGINE_TAG, ENGINES, check_engine_name
from aurora_pool.errors import ConfigError

EngineKind = Literal["vllm", "sglang", "llamacpp", "transformers", "sim", "command"]
_Kind = TypeVar("_Kind")

Where = Literal["local", "slurm", "pbs", "ssh", "kubernetes"]
GpuKind = Literal["cuda", "rocm", "xpu"]


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What serves: ``args`` are added to its command line; ``setup`` is shell that runs before it.

    Of kind ``command``, ``command`` is the whole command line, with ``{model}``, ``{host}`` and ``{port}`` in it.
    """

    kind: EngineKind = "vllm"
    model: str = ""
    args: str | list[str | int | float] = ""
    env: dict[str, str | int | float] = {}
    setup: str | list[str] = ""
    command: str = ""

    @property
    def words(self) -> list[str]:
        """The arguments as words."""
        return shlex.split(self.args) if isinstance(self.args, str) else [str(word) for word in self.args]

    @property
    def setup_lines(self) -> str:
        """The lines of shell to run first."""
        return (self.setup if isinstance(self.setup, str) else "\n".join(self.setup)).strip()


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agents of one kind. Times are seconds.

    - ``agents``: how many; ``agents_per_node`` of them share a machine; each has ``gpus_per_agent`` GPUs, whose kind
      ``gpus`` tells which variable names them.
    - ``options``: of the scheduler, or of ssh, passed on verbatim; ``hosts``: where ssh goes.
    - ``network``: the interface whose address agents listen on; by default the one of the machine's name.
    - ``port``: the first port to try; by default one that depends on the fleet.
    - ``ready_within``: how long an engine may take to load; ``restarts``: how often it is started again;
      ``drain``: how long requests in flight may take when the fleet goes down.
    - ``image``: of the container, in Kubernetes.
    """

    engine: Engine = Engine()
    agents: int = 1
    agents_per_node: int = 1
    gpus_per_agent: int = 0
    gpus: GpuKind = "cuda"
    options: list[str] = []
    hosts: list[str] = []
    tags: dict[str, str | int | float] = {}
    network: str = ""
    port: int = 0
    ready_within: float = 1800.0
    restarts: int = 3
    drain: float = 20.0
    image: str = ""
    name: str = "agent"

    @property
    def elements(self) -> int:
        """How many machines it takes."""
        return -(-self.agents // self.agents_per_node)

    def agent_name(self, index: int) -> str:
        """The name of an agent: in files, and on the command line."""
        return f"{self.name}-{index:0{max(3, len(str(self.agents - 1)))}}"

    def agents_of(self, element: int) -> range:
        """The agents of one machine."""
        first = element * self.agents_per_node
        return range(first, min(first + self.agents_per_node, self.agents))


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Groups of agents, and where they run.

    ``id`` tells one launch from the next; ``attached`` is set for one that belongs to a command, and ends with it.
    """

    groups: list[Group]
    where: Where = "local"
    id: str = ""
    attached: bool = False

    def group(self, name: str) -> Group:
        """The group of that name. Raises :class:`ConfigError`."""
        for group in self.groups:
            if group.name == name:
                return group
        raise ConfigError(f"no group {name!r} in this fleet; there are {', '.join(each.name for each in self.groups)}")

    @property
    def drain(self) -> float:
        """How long requests in flight may take when it goes down."""
        return max(group.drain for group in self.groups)

    def gpus_before(self, group: Group, element: int) -> int | None:
        """How many GPUs others get first on the machine of an element; None if nobody shares it.

        Only ssh can bring several to one machine: schedulers give each its own nodes or GPUs.
        """
        if self.where != "ssh":
            return None
        host = group.hosts[element]
        own = (group.name, element)
        there = [
            (each, number)
            for each in self.groups
            for number in range(each.elements)
            if each.gpus_per_agent and each.gpus == group.gpus and each.hosts[number] == host
        ]
        before = there[: [(each.name, number) for each, number in there].index(own)] if group.gpus_per_agent else []
        taken = sum(len(each.agents_of(number)) * each.gpus_per_agent for each, number in before)
        return taken if len(there) > 1 else None

    @property
    def agent_names(self) -> list[str]:
        """The names of all agents, in order."""
        return [group.agent_name(index) for group in self.groups for index in range(group.agents)]


def load_fleet(path: Path) -> Fleet:
    """Read a fleet from a YAML file.

    Raises :class:`ConfigError`, which names the file and the key.
    """
    import yaml  # noqa: PLC0415 (slow to import)

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: the fleet can't be read ({reason})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, a thousand brackets
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return make_fleet(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def make_fleet(content: Any) -> Fleet:
    """Make a fleet of what a YAML file holds. Raises :class:`ConfigError`.

    >>> fleet = make_fleet({"engine": {"model": "m"}, "agents": 3, "where": "slurm"})
    >>> fleet.where, fleet.agent_names
    ('slurm', ['agent-000', 'agent-001', 'agent-002'])
    >>> make_fleet({"engine": {"modle": "m"}})
    Traceback (most recent call last):
    aurora_pool.errors.ConfigError: engine: no key 'modle'; did you mean 'model'?
    """
    if not isinstance(content, Mapping):
        raise ConfigError("expected keys such as 'engine:' and 'agents:'")
    shared = dict(content)
    where = shared.pop("where", "local")
    groups = shared.pop("groups", None)
    if groups is None:
        groups = {"agent": {}}
    if not isinstance(groups, Mapping) or not groups:
        raise ConfigError("groups: expected a name for each group, with its keys below")
    created = [_make_group(str(name), shared, own or {}) for name, own in groups.items()]
    fleet = _convert({"groups": [], "where": where}, Fleet, "")
    if where == "local":  # all on this machine
        created = [msgspec.structs.replace(group, agents_per_node=group.agents) for group in created]
    fleet = msgspec.structs.replace(fleet, groups=created)
    if fleet.where == "ssh" and any(not group.hosts for group in created):
        raise ConfigError("hosts: expected the names of machines, as where is ssh")
    return fleet


def _make_group(name: str, shared: Mapping[str, Any], own: Any) -> Group:
    place = "" if name == "agent" else f"groups: {name}: "
    if not isinstance(own, Mapping):
        raise ConfigError(f"{place}expected keys such as 'agents:'")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"{place}expected letters, digits, '-' and '_' in a group's name")
    engine: dict[str, Any] = {}
    for source in (shared.get("engine"), own.get("engine")):
        if isinstance(source, str):  # the short form: engine: sim
            source = {"kind": source}  # noqa: PLW2901
        if source is not None and not isinstance(source, Mapping):
            raise ConfigError(f"{place}engine: expected keys such as 'kind:' and 'model:'")
        engine.update(source or {})
    _check_keys(engine, Engine, f"{place}engine: ")
    fields = {**shared, **own, "engine": engine}
    _check_keys(fields, Group, place, hidden=("name",), also=("where", "groups"))
    group = _convert({**fields, "name": name}, Group, place)
    _check_group(group, place)
    return group


def _check_group(group: Group, place: str) -> None:
    for key, least in (("agents", 1), ("agents_per_node", 1), ("gpus_per_agent", 0), ("restarts", 0), ("drain", 0)):
        if getattr(group, key) < least:
            raise ConfigError(f"{place}{key}: expected at least {least}, got {getattr(group, key)}")
    if not 0 <= group.port <= 65535:
        raise ConfigError(f"{place}port: expected one from 1 to 65535, got {group.port}")
    engine = group.engine
    if engine.kind == "command" and not engine.command:
        raise ConfigError(f"{place}engine: command: expected a command line, as its kind is 'command'")
    if engine.kind != "command" and engine.command:
        raise ConfigError(f"{place}engine: a command needs kind: command")
    if engine.kind not in {"command", "sim"} and not engine.model:
        raise ConfigError(f"{place}engine: model: expected the name or the folder of a model")
    try:
        shlex.split(engine.args if isinstance(engine.args, str) else "")
    except ValueError as error:
        raise ConfigError(f"{place}engine: args: {error}") from None
    for key, value in group.tags.items():
        if any(character in f"{key}{value}" for character in " \t\n#=") or not key:
            raise ConfigError(f"{place}tags: expected words without spaces, '=' and '#', got {key!r}: {value!r}")
    try:
        check_engine_name(str(group.tags.get(ENGINE_TAG, ENGINES[0])))
    except ConfigError as error:
        raise ConfigError(f"{place}tags: {error}") from None


def _check_keys(
    given: Mapping[str, Any],
    kind: type[msgspec.Struct],
    place: str,
    hidden: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
) -> None:
    known = [name for name in kind.__struct_fields__ if name not in hidden]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), [*known, *also], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise ConfigError(f"{place}no key {key!r}; {hint}")


def _convert(fields: Any, kind: type[_Kind], place: str) -> _Kind:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        key = where.strip("`").lstrip(".").replace(".", ": ")
        raise ConfigError(f"{place}{key}: {what[0].lower()}{what[1:]}" if key else f"{place}{what}") from None
