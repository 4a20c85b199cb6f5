"""Headers and certificates, over real TLS."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from aurora_pool import AgentEndpoint, ConfigError, ConnectionOptions, HostfileError, PromptOptions, Timeouts, VLLMPool
from aurora_pool.hostfile import format_hostfile, parse_hostfile_text

REPLY = {"choices": [{"index": 0, "text": " yes", "finish_reason": "stop"}], "usage": {}}


class Certificates:
    """An authority, its server and its client, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.client_cert = str(folder / "client.pem")
        self.client_key = str(folder / "client.key")
        authority.cert_pem.write_to_path(self.ca_file)
        client = authority.issue_cert("client@example.org")
        client.cert_chain_pems[0].write_to_path(self.client_cert)
        client.private_key_pem.write_to_path(self.client_key)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self.server)
        authority.configure_trust(self.server)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def agent(context: ssl.SSLContext | None) -> AsyncIterator[tuple[int, list[Mapping[str, str]]]]:
    """Run a server that answers everything; gives its port and the headers it has seen."""
    seen: list[Mapping[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers)
        return web.json_response(REPLY)

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1], seen
    finally:
        await runner.cleanup()


async def ask(
    port: int, options: ConnectionOptions | None = None, *, scheme: str = "https", tags: Mapping[str, str] | None = None
) -> Any:
    endpoint = AgentEndpoint("127.0.0.1", port, tags or {}, scheme)
    async with VLLMPool(
        [endpoint],
        model="m",
        max_tokens=4,
        connection=options,
        prompting=PromptOptions(prompt_format="raw"),
        timeouts=Timeouts(patience=0.2),
    ) as pool:
        return await pool.ask("a")


async def test_a_certificate_of_an_unknown_authority_is_refused(certificates: Certificates) -> None:
    async with agent(certificates.server) as (port, _):
        response = await ask(port)
    assert response.error_kind == "no_agents"
    assert "certificate" in response.error


async def test_an_authority_of_ones_own_is_trusted(certificates: Certificates) -> None:
    async with agent(certificates.server) as (port, _):
        by_option = await ask(port, ConnectionOptions(ca_file=certificates.ca_file))
        by_tag = await ask(port, tags={"ca_file": certificates.ca_file})
    assert by_option.raise_for_status().text == by_tag.raise_for_status().text == " yes"


async def test_unverified_is_possible_and_warned_of(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent(certificates.server) as (port, _):
        assert (await ask(port, ConnectionOptions(verify=False))).success
        assert "the certificates of 1 agent are not verified" in caplog.text
        caplog.clear()
        assert (await ask(port, tags={"verify": "false"})).success
        assert "are not verified" in caplog.text
        assert not (await ask(port, ConnectionOptions(verify=False), tags={"verify": "true"})).success, "the tag wins"


async def test_the_server_may_ask_who_the_client_is(certificates: Certificates) -> None:
    certificates.server.verify_mode = ssl.CERT_REQUIRED
    try:
        async with agent(certificates.server) as (port, _):
            assert not (await ask(port, ConnectionOptions(ca_file=certificates.ca_file))).success
            known = ConnectionOptions(
                ca_file=certificates.ca_file,
                client_cert=certificates.client_cert,
                client_key=certificates.client_key,
            )
            assert (await ask(port, known)).success
    finally:
        certificates.server.verify_mode = ssl.CERT_NONE


@pytest.mark.parametrize("name", ["ca_file", "client_cert", "client_key"])
def test_files_that_can_not_be_used(name: str, certificates: Certificates, tmp_path: Path) -> None:
    def make(path: Path) -> None:
        options = {"ca_file": certificates.ca_file, "client_cert": certificates.client_cert, name: str(path)}
        VLLMPool([AgentEndpoint("gpu01", 443, options, "https")])

    with pytest.raises(ConfigError, match=f"gpu01:443: {name}: expected a PEM file, and there is none at"):
        make(tmp_path / "missing.pem")
    (tmp_path / "empty.pem").write_text("nothing\n")
    with pytest.raises(ConfigError, match=f"gpu01:443: {name.replace('key', 'cert')}: .* can't be used"):
        make(tmp_path / "empty.pem")


def test_agents_with_the_same_certificates_share_a_context(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = []
    create = ssl.create_default_context

    def counted(**options: Any) -> ssl.SSLContext:
        created.append(options)
        return create(**options)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    VLLMPool(
        [f"https://gpu{number}" for number in range(100)], connection=ConnectionOptions(ca_file=certificates.ca_file)
    )
    assert len(created) == 1


async def test_headers_of_the_pool_and_of_the_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU01_TOKEN", "secret\n")
    tags = {"header:X-Team": "blue", "header_env:X-Token": "GPU01_TOKEN"}
    async with agent(None) as (port, seen):
        await ask(port, ConnectionOptions(headers={"x-team": "red", "X-Run": "7"}), scheme="http", tags=tags)
    (headers,) = seen
    assert (headers.get("X-Team"), headers.get("X-Run"), headers.get("X-Token")) == ("blue", "7", "secret")


def test_headers_that_can_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for headers in ({"X Team": "a"}, {"X-Team": "a\r\nX-Evil: b"}, {"X-Team": 7}, "X-Team: a"):
        with pytest.raises(ConfigError, match=r"^headers: expected"):
            ConnectionOptions(headers=headers)  # type: ignore[arg-type]
    monkeypatch.delenv("UNSET_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"gpu01:8000: the environment variable UNSET_TOKEN .* is not set"):
        VLLMPool(["gpu01 header_env:X-Token=UNSET_TOKEN"])


@pytest.mark.parametrize("tag", ["api_key_env", "header_env:X-Token"])
@pytest.mark.parametrize("odd", ["sk\n1", "sk\r\nX-Evil: 1", "sk\x071", "sk\x7f1"])
def test_a_secret_that_no_header_can_carry_is_told_and_not_shown(
    tag: str, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD", odd)
    with pytest.raises(ConfigError, match=r"gpu01:8000: .* BAD .*expected text without control characters") as caught:
        VLLMPool([f"gpu01 {tag}=BAD"])
    assert odd not in str(caught.value)
    assert repr(odd)[1:-1] not in str(caught.value)


@pytest.mark.parametrize("written", ["sk-1", "sk-1\n", "sk-1\r\n", "  sk-1\t"])
async def test_a_key_is_sent_without_the_line_end_that_came_with_it(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU01_KEY", written)
    async with agent(None) as (port, seen):
        await ask(port, ConnectionOptions(), scheme="http", tags={"api_key_env": "GPU01_KEY"})
    assert [headers.get("Authorization") for headers in seen] == ["Bearer sk-1"]


def test_a_key_needs_its_certificate(certificates: Certificates) -> None:
    with pytest.raises(ConfigError, match="client_key: expected client_cert beside it"):
        ConnectionOptions(client_key=certificates.client_key)
    with pytest.raises(ConfigError, match="client_key: expected client_cert beside it"):
        VLLMPool([AgentEndpoint("gpu01", 443, {"client_key": certificates.client_key}, "https")])


def test_tags_in_a_hostfile() -> None:
    line = "https://gpu01 header:X-Team=blue header_env:X-Token=GPU01_TOKEN ca_file=/etc/ca.pem verify=false\n"
    (endpoint,) = parse_hostfile_text(line)
    assert parse_hostfile_text(format_hostfile([endpoint])) == [endpoint]
    for tag in ("verify=no", "header:Authorization=sk-1", "header_env:X-Token=sk-1", "header:api-key=sk-1"):
        with pytest.raises(HostfileError) as caught:
            parse_hostfile_text(f"https://gpu01 {tag}\n")
        assert "sk-1" not in str(caught.value)


def test_a_log_shows_no_header(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU01_TOKEN", "sk-secret")
    with caplog.at_level(logging.DEBUG):
        pool = VLLMPool(["gpu01 header_env:X-Token=GPU01_TOKEN"])
    assert "sk-secret" not in caplog.text + repr(pool) + repr(pool.endpoints)
