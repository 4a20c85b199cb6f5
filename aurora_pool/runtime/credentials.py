"""Credentials beyond an API key: further headers, and certificates for https."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aurora_pool.errors import ConfigError, counted
from aurora_pool.hostfile import HEADER_ENV_TAG, HEADER_TAG, AgentEndpoint
from aurora_pool.options import ConnectionOptions, check_header

log = logging.getLogger("aurora_pool")


def headers_of(endpoint: AgentEndpoint, options: ConnectionOptions) -> dict[str, str]:
    """Collect the headers for an agent: its key, the pool's headers, and those that its tags name, which win.

    >>> headers_of(AgentEndpoint("gpu01", tags={"header:X-Team": "blue"}), ConnectionOptions({"x-team": "red"}))
    {'X-Team': 'blue'}

    Raises :class:`~aurora_pool.errors.ConfigError` for a variable that is not set and a header that HTTP can't carry.
    """
    own: dict[str, str] = {}
    if endpoint.api_key_env:
        own["Authorization"] = f"Bearer {read_secret(endpoint.api_key_env, f'{endpoint}: ', ' with its API key')}"
    for tag, value in endpoint.tags.items():
        if tag.startswith(HEADER_TAG):
            own[tag.removeprefix(HEADER_TAG)] = value
        elif tag.startswith(HEADER_ENV_TAG):
            own[tag.removeprefix(HEADER_ENV_TAG)] = read_secret(value, f"{endpoint}: ", f" of the tag {tag}")
    for name, text in own.items():
        check_header(name, text)
    named = {"content-type", *(name.lower() for name in own)}
    return {name: value for name, value in options.headers.items() if name.lower() not in named} | own


def read_secret(variable: str, whose: str = "", what: str = "") -> str:
    """Read a secret from the environment, without the line end that a file or a ``$(...)`` has put there.

    Raises :class:`~aurora_pool.errors.ConfigError`, with ``whose`` and ``what`` around the variable's name, if it is
    not set, or holds what no header can carry; the secret itself is not shown.
    """
    secret = os.environ.get(variable, "").strip()
    if not secret:
        raise ConfigError(f"{whose}the environment variable {variable}{what} is not set")
    if not secret.isprintable():
        raise ConfigError(f"{whose}the environment variable {variable}{what}: expected text without control characters")
    return secret


def secrets_of(endpoint: AgentEndpoint, headers: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets among an agent's headers: its key, and values from the environment.

    >>> secrets_of(AgentEndpoint("gpu01"), {"Authorization": "Bearer sk-1"})
    ('sk-1',)
    """
    named = [tag.removeprefix(HEADER_ENV_TAG) for tag in endpoint.tags if tag.startswith(HEADER_ENV_TAG)]
    values = [headers.get(name, "") for name in ("Authorization", *named)]
    return tuple(value.removeprefix("Bearer ") for value in values if value.removeprefix("Bearer "))


@dataclass(frozen=True, slots=True)
class _Certificates:
    ca_file: str | None
    client_cert: str | None
    client_key: str | None
    verify: bool


class Trust:
    """Which certificates each agent is reached with. Agents with the same ones share a context."""

    def __init__(self, options: ConnectionOptions) -> None:
        self._options = options
        self._contexts: dict[_Certificates, ssl.SSLContext] = {}
        self._of: dict[int, ssl.SSLContext] = {}
        self._warned: set[AgentEndpoint] = set()

    def set_endpoints(self, endpoints: Sequence[AgentEndpoint]) -> None:
        """Record which agent has which index.

        Raises :class:`~aurora_pool.errors.ConfigError` for a file that can't be read or holds no certificate.
        """
        self._of.clear()
        unverified = []
        for index, endpoint in enumerate(endpoints):
            if endpoint.scheme != "https":
                continue
            certificates = _certificates(endpoint, self._options)
            if not certificates.verify and endpoint not in self._warned:
                unverified.append(endpoint)
            if certificates != _USUAL:
                context = self._contexts.get(certificates)
                if context is None:
                    context = self._contexts[certificates] = _context(endpoint, certificates)
                self._of[index] = context
        if unverified:
            self._warned.update(unverified)
            log.warning(
                "the certificates of %s are not verified (verify=False), the first being %s: "
                "an attacker in between can read and change what is sent",
                counted(len(unverified), "agent"),
                unverified[0],
            )

    def of(self, agent: int) -> ssl.SSLContext | bool:
        """Return what aiohttp takes as ``ssl``: a context, or True for the system's certificate authorities."""
        return self._of.get(agent, True)


_USUAL = _Certificates(None, None, None, verify=True)


def _certificates(endpoint: AgentEndpoint, options: ConnectionOptions) -> _Certificates:
    tags = endpoint.tags
    found = {
        name: tags.get(name) or (None if getattr(options, name) is None else str(getattr(options, name)))
        for name in ("ca_file", "client_cert", "client_key")
    }
    verify = tags["verify"] == "true" if "verify" in tags else options.verify
    return _Certificates(found["ca_file"], found["client_cert"], found["client_key"], verify)


def _context(endpoint: AgentEndpoint, certificates: _Certificates) -> ssl.SSLContext:
    named = {name: getattr(certificates, name) for name in ("ca_file", "client_cert", "client_key")}
    for name, path in named.items():
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"{endpoint}: {name}: expected a PEM file, and there is none at {path!r}")
    if certificates.client_key is not None and certificates.client_cert is None:
        raise ConfigError(f"{endpoint}: client_key: expected client_cert beside it")
    doing = "ca_file"
    try:
        context = ssl.create_default_context(cafile=certificates.ca_file)
        if not certificates.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        doing = "client_cert"
        if certificates.client_cert is not None:
            # An empty password instead of a question on the terminal.
            context.load_cert_chain(certificates.client_cert, certificates.client_key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"{endpoint}: {doing}: {named[doing]!r} can't be used ({error})") from error
    return context
