"""Hostfiles: text on one side, :class:`AgentEndpoint` objects on the other. Pure.

One agent a line, with an optional port (8000 by default) and optional ``key=value`` tags, separated by spaces or tabs::

    # the fast machines
    gpu01
    gpu02        8001   tier=large  rack=3
    10.0.0.7:8000
    [fe80::1]:8000
    gpu[03-16]   8001
    https://llm.example.org/team-a   api_key_env=TEAM_A_KEY

Blank lines and ``#`` comments are skipped, and the order of the file is kept: it numbers the agents. What tags mean
stands with :class:`AgentEndpoint`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from aurora_pool.arguments import check_each_instance, shown
from aurora_pool.engine_names import ENGINE_TAG, ENGINES, check_engine_name
from aurora_pool.errors import ConfigError, HostfileError, NoAgentsError, counted
from aurora_pool.hosted import HOSTED_TAG, YES, HostedTerms, hosted_terms
from aurora_pool.nodelist import expand_hosts

__all__ = ["AgentEndpoint", "AnyEndpoint", "as_endpoints", "format_hostfile", "identity", "parse_hostfile_text"]

log = logging.getLogger("aurora_pool")

DEFAULT_PORT = 8000
LOW_PORT = 1024
"""Ports below this are seldom an agent's; in a file that was made for MPI, they are numbers of slots."""
API_KEY_TAG = "api_key_env"
HEADER_TAG = "header:"
HEADER_ENV_TAG = "header_env:"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", re.ASCII)
_SCOPE = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}")
_PATH = re.compile(r"(/[^\s#?]*)?")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRETS = frozenset({"apikey", "authorization", "bearer", "password", "secret", "token"})


@dataclass(frozen=True, slots=True)
class AgentEndpoint:
    """Where one agent listens, and the tags that describe it.

    >>> endpoint = AgentEndpoint("gpu02", 8001, {"tier": "large"})
    >>> endpoint.base_url, endpoint.tags["tier"]
    ('http://gpu02:8001', 'large')

    Some tags say how to reach an agent; the others are yours, for :meth:`AgentPool.by_tag`:

    - ``api_key_env=NAME``: the environment variable that holds the API key, which is never in the file;
    - ``header:NAME=value``, ``header_env:NAME=VARIABLE``: a header for every request, by value or by variable;
    - ``ca_file``, ``client_cert``, ``client_key``: PEM files for https, as in :class:`ConnectionOptions`;
    - ``verify=false``: accept any certificate;
    - ``engine=vllm|sglang|llamacpp|ollama|transformers``: whose server it is, where that is not found out;
    - ``hosted``, alone: an API that others run. Beside it stand its limits in a minute (``rpm`` requests, ``tpm``
      tokens) and at a time (``max``), its prices of a million tokens (``price_in``, ``price_out``) and its ``model``.

    Raises :class:`ConfigError` for arguments of another type, and :class:`HostfileError` for a host, port, tag, scheme
    or path that no hostfile could hold. A ``/v1`` at the end of ``path`` is dropped: request paths begin with it.
    """

    host: str
    port: int = DEFAULT_PORT
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    scheme: str = "http"
    path: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("host", str), ("port", int), ("tags", Mapping), ("scheme", str), ("path", str)):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ConfigError(f"{name}: expected {kind.__name__}, got {shown(value)}")
        _check_host(self.host)
        if not 1 <= self.port <= 65535:
            raise HostfileError(f"expected a port from 1 to 65535, got {self.port}", path="AgentEndpoint")
        if self.scheme not in _DEFAULT_PORTS:
            raise HostfileError(f"expected http or https, got {self.scheme!r}", path="AgentEndpoint")
        if not _PATH.fullmatch(self.path):
            raise HostfileError("expected a path such as /team-a, without query or fragment", path="AgentEndpoint")
        for key, value in self.tags.items():
            _check_tag(key, value)
        try:
            hosted_terms(self.tags)
            check_engine_name(self.tags.get(ENGINE_TAG, ENGINES[0]))
        except ConfigError as error:
            raise HostfileError(str(error), path="AgentEndpoint") from None
        object.__setattr__(self, "tags", MappingProxyType(dict(self.tags)))
        object.__setattr__(self, "path", self.path.rstrip("/").removesuffix("/v1").rstrip("/"))

    def __reduce__(self) -> tuple[type[AgentEndpoint], tuple[object, ...]]:
        return AgentEndpoint, (self.host, self.port, dict(self.tags), self.scheme, self.path)

    @property
    def authority(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The address that request paths are appended to: ``http://gpu02:8001``."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def api_key_env(self) -> str | None:
        """The environment variable that holds this agent's API key, if it has one."""
        return self.tags.get(API_KEY_TAG)

    @property
    def hosted(self) -> HostedTerms | None:
        """What it allows and costs, if it is hosted."""
        return hosted_terms(self.tags)

    def __str__(self) -> str:
        return self.authority if self.scheme == "http" and not self.path else self.base_url


AnyEndpoint: TypeAlias = AgentEndpoint | str | tuple[str, int]
"""What is taken wherever an endpoint is: an :class:`AgentEndpoint`, a line of a hostfile, or a (host, port) pair.
A line may stand for several agents: ``gpu[01-16]:8000``."""


def as_endpoints(endpoints: Iterable[AnyEndpoint]) -> list[AgentEndpoint]:
    """Make endpoints of what names them, each agent once: one that is listed again is left out, with a warning.

    >>> [str(one) for one in as_endpoints(["gpu01", "gpu02 8001 tier=large", ("gpu03", 8000), "http://gpu04:8001/v1"])]
    ['gpu01:8000', 'gpu02:8001', 'gpu03:8000', 'gpu04:8001']
    >>> [str(one) for one in as_endpoints(["gpu[01-02]:8000"])]
    ['gpu01:8000', 'gpu02:8000']

    Raises :class:`ConfigError` for what names no agent, and :class:`NoAgentsError` for an empty list.
    """
    if isinstance(endpoints, str | bytes | Mapping | AgentEndpoint) or not isinstance(endpoints, Iterable):
        raise ConfigError(f"endpoints: expected a list of endpoints, such as ['gpu01:8000'], got {shown(endpoints)}")
    found: dict[str, AgentEndpoint] = {}
    again: list[AgentEndpoint] = []
    for index, given in enumerate(endpoints):
        for endpoint in _as_endpoints(index, given):
            if identity(endpoint) in found:
                again.append(endpoint)
            else:
                found[identity(endpoint)] = endpoint
    if again:
        repeated = counted(len(again), "endpoint is", "endpoints are")
        log.warning("%s listed more than once and counted once, the first being %s", repeated, again[0])
    if not found:
        raise NoAgentsError("a pool needs at least one endpoint")
    return list(found.values())


def parse_hostfile_text(text: str, *, path: str | Path = "<hostfile>") -> list[AgentEndpoint]:
    r"""Read the text of a hostfile; ``path`` only names it in errors.

    >>> [str(e) for e in parse_hostfile_text("gpu01\ngpu02 8001 tier=large\n")]
    ['gpu01:8000', 'gpu02:8001']
    """
    endpoints: list[AgentEndpoint] = []
    seen: dict[str, tuple[AgentEndpoint, int]] = {}
    repeated = 0
    # Not splitlines(): it also ends lines at form feeds and the like, and the numbers would not be the editor's.
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            found = _parse_line(line)
        except HostfileError as error:
            raise HostfileError(error.reason, path=path, line=number) from None
        for endpoint in found:
            first, line_then = seen.setdefault(identity(endpoint), (endpoint, number))
            if first is endpoint:
                endpoints.append(endpoint)
            elif (first.scheme, first.tags) == (endpoint.scheme, endpoint.tags):
                repeated += 1  # as a node file has a host once for each of its cores
            else:
                reason = f"{endpoint} is listed in line {line_then} already, otherwise; expected each agent once"
                raise HostfileError(reason, path=path, line=number)
    low = next((one for one in endpoints if one.port < LOW_PORT and one.port not in _DEFAULT_PORTS.values()), None)
    if repeated:
        _warn_once(f"{path}: agents that are listed again count once: {counted(repeated, 'line')}")
    if low is not None:
        _warn_once(f"{path}: {low} has a port below {LOW_PORT}; if that is a number of slots, leave it out")
    if not endpoints:
        raise HostfileError("no agent in it; expected at least one line such as 'gpu01 8000'", path=path)
    return endpoints


@cache
def _warn_once(message: str) -> None:
    """Warn of what is in a hostfile: one that is followed is read again every few seconds."""
    log.warning("%s", message)


def format_hostfile(endpoints: Iterable[AgentEndpoint]) -> str:
    r"""Write endpoints as the text of a hostfile that :func:`~aurora_pool.parse_hostfile` reads back to equal ones.

    >>> format_hostfile([AgentEndpoint("gpu02", 8001, {"tier": "large"})])
    'gpu02\t8001\ttier=large\n'
    """
    check_each_instance("endpoints", endpoints := list(endpoints), AgentEndpoint)
    lines = []
    for endpoint in endpoints:
        plain = endpoint.scheme == "http" and not endpoint.path and ":" not in endpoint.host
        where = [endpoint.host, str(endpoint.port)] if plain else [str(endpoint)]
        tags = [HOSTED_TAG if key == HOSTED_TAG else f"{key}={value}" for key, value in endpoint.tags.items()]
        lines.append("\t".join(where + tags))
    return "".join(line + "\n" for line in lines)


def identity(endpoint: AgentEndpoint) -> str:
    """Write what makes two lines the same agent, however they spell it."""
    host = str(IPv6Address(endpoint.host)) if ":" in endpoint.host else endpoint.host.lower().rstrip(".")
    return f"{host} {endpoint.port} {endpoint.path}"


# The errors below quote no more of a line than they must: a word in the wrong place may be a key.


def _as_endpoints(index: int, given: Any) -> list[AgentEndpoint]:
    try:
        if isinstance(given, AgentEndpoint):
            return [given]
        if isinstance(given, str) and (found := _parse_line(given)):
            return found
        if isinstance(given, tuple | list) and len(given) == 2:
            return [AgentEndpoint(*given)]
    except (ConfigError, HostfileError) as error:
        reason = error.reason if isinstance(error, HostfileError) else error
        raise ConfigError(f"endpoints[{index}]: {reason}") from None
    expected = "'host', 'host:port', a URL, a (host, port) pair or an AgentEndpoint"
    raise ConfigError(f"endpoints[{index}]: expected {expected}, got {shown(given)}")


def _parse_line(line: str) -> list[AgentEndpoint]:
    """The agents of one line: several where its host stands for several, none where it is empty or a comment."""
    words = line.split("#", 1)[0].split()
    return [_parse_words([host, *words[1:]]) for host in expand_hosts(words[0])] if words else []


def _parse_words(words: list[str]) -> AgentEndpoint:
    first, rest = words[0], words[1:]
    scheme, host, port, path = _parse_address(first)
    if rest and "=" not in rest[0] and rest[0] != HOSTED_TAG:
        if port is not None:
            raise HostfileError("the port is given already; expected key=value tags after it")
        port = _parse_port(rest[0])
        rest = rest[1:]
    tags: dict[str, str] = {}
    for number, word in enumerate(rest, start=len(words) - len(rest) + 1):
        key, equals, value = (HOSTED_TAG, "=", YES) if word == HOSTED_TAG else word.partition("=")
        if not equals or not key:
            raise HostfileError(f"expected a tag as key=value, got something else as word {number}")
        if key in tags:
            raise HostfileError(f"the tag {key!r} is given twice; expected each tag once")
        tags[key] = value
    return AgentEndpoint(host, DEFAULT_PORT if port is None else port, tags, scheme, path)


def _parse_address(word: str) -> tuple[str, str, int | None, str]:
    """Split ``host``, ``host:port``, ``[v6]:port``, a bare IPv6 address or a URL into scheme, host, port, path."""
    if "@" in word or "?" in word:
        raise HostfileError("expected an address of scheme, host, port and path only: no user, password or query")
    scheme, separator, after = word.partition("://")
    if not separator:
        if word.count(":") > 1 and not word.startswith("["):
            return "http", word, None, ""
        return "http", *_split_port(word.removesuffix("/").removesuffix("/v1")), ""
    if scheme.lower() not in _DEFAULT_PORTS:
        raise HostfileError(f"expected http:// or https://, got {scheme!r} before '://'")
    authority, slash, path = after.partition("/")
    host, port = _split_port(authority)
    return scheme.lower(), host, _DEFAULT_PORTS[scheme.lower()] if port is None else port, slash + path


def _split_port(authority: str) -> tuple[str, int | None]:
    if authority.startswith("["):
        host, bracket, after = authority[1:].partition("]")
        if not bracket or ":" not in host or (after and not after.startswith(":")):
            raise HostfileError("expected an IPv6 address as [address] or [address]:port")
        return host, _parse_port(after[1:]) if after else None
    host, colon, port = authority.partition(":")
    return host, _parse_port(port) if colon else None


def _parse_port(text: str) -> int:
    if not _PORT.fullmatch(text):
        got = f", got {text!r}" if text.isdigit() and len(text) <= 10 else ""
        raise HostfileError(f"expected a port from 1 to 65535 or a tag as key=value{got}")
    return int(text)


def _check_host(host: str) -> None:
    address, percent, scope = host.partition("%")
    try:
        if ":" in host:
            IPv6Address(address)
            valid = not percent or _SCOPE.fullmatch(scope) is not None
        else:
            valid = _NAME.fullmatch(host) is not None
            if host.rpartition(".")[2].isdigit():
                IPv4Address(host)
    except ValueError:
        valid = False
    if not valid:
        raise HostfileError(f"expected a host name or address, got {host!r}", path="AgentEndpoint")


def _check_tag(key: Any, value: Any) -> None:
    if not isinstance(key, str) or not isinstance(value, str):
        raise ConfigError(f"tags: expected texts as keys and values, got {type(key).__name__}: {type(value).__name__}")
    if key.removeprefix(HEADER_TAG).lower().replace("-", "").replace("_", "") in _SECRETS:
        by_variable = HEADER_ENV_TAG + key.removeprefix(HEADER_TAG) if key.startswith(HEADER_TAG) else API_KEY_TAG
        reason = f"a hostfile never contains a key; expected {by_variable}=NAME of the environment variable with it"
        raise HostfileError(reason, path="AgentEndpoint")
    if (key == API_KEY_TAG or key.startswith(HEADER_ENV_TAG)) and not _VARIABLE.fullmatch(value):
        reason = f"expected {key} to name an environment variable in capitals, such as {key}=VLLM_API_KEY"
        raise HostfileError(reason, path="AgentEndpoint")
    if key == "verify" and value not in ("true", "false"):
        raise HostfileError("expected verify=true or verify=false", path="AgentEndpoint")
    if not key or re.search(r"[\s#=]", key) or re.search(r"[\s#]", value):
        raise HostfileError(
            "expected a tag's key and value without spaces and '#', the key without '='", path="AgentEndpoint"
        )
