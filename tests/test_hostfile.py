"""The hostfile grammar: what is read, what is refused and where, and that nothing shows a key."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_pool.engine_names import ENGINES
from aurora_pool.errors import HostfileError
from aurora_pool.hostfile import AgentEndpoint, format_hostfile, parse_hostfile_text
from aurora_pool.hostfile_source import parse_hostfile
from aurora_pool.wire.dialect import DIALECTS

EXAMPLES = Path(__file__).parent.parent / "hostfiles"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpu01", AgentEndpoint("gpu01")),
        ("gpu01 8001", AgentEndpoint("gpu01", 8001)),
        ("gpu01\t8001", AgentEndpoint("gpu01", 8001)),
        ("gpu01:8001", AgentEndpoint("gpu01", 8001)),
        ("  gpu01  08001  ", AgentEndpoint("gpu01", 8001)),
        ("gpu_01.rack-3.example.org", AgentEndpoint("gpu_01.rack-3.example.org")),
        ("10.0.0.7:8001", AgentEndpoint("10.0.0.7", 8001)),
        ("::1", AgentEndpoint("::1")),
        ("::1 8001", AgentEndpoint("::1", 8001)),
        ("[::1]", AgentEndpoint("::1")),
        ("[::1]:8001", AgentEndpoint("::1", 8001)),
        ("fe80::1%eth0 8001", AgentEndpoint("fe80::1%eth0", 8001)),
        ("[fe80::1%eth0]:8001", AgentEndpoint("fe80::1%eth0", 8001)),
        ("gpu01 tier=large", AgentEndpoint("gpu01", tags={"tier": "large"})),
        ("gpu01 8001 tier=large rack=3", AgentEndpoint("gpu01", 8001, {"tier": "large", "rack": "3"})),
        ("gpu01 equation=a=b empty=", AgentEndpoint("gpu01", tags={"equation": "a=b", "empty": ""})),
        ("gpu01 8001 # the spare", AgentEndpoint("gpu01", 8001)),
        ("gpu01#the spare", AgentEndpoint("gpu01")),
        ("gpu01/v1", AgentEndpoint("gpu01")),
        ("gpu01:8001/v1/", AgentEndpoint("gpu01", 8001)),
        ("http://gpu01", AgentEndpoint("gpu01", 80)),
        ("http://gpu01:8001/", AgentEndpoint("gpu01", 8001)),
        ("https://gpu01", AgentEndpoint("gpu01", 443, scheme="https")),
        ("HTTPS://gpu01", AgentEndpoint("gpu01", 443, scheme="https")),
        ("https://gpu01/team-a", AgentEndpoint("gpu01", 443, scheme="https", path="/team-a")),
        ("https://gpu01/team-a/v1/", AgentEndpoint("gpu01", 443, scheme="https", path="/team-a")),
        ("https://gpu01/v1 rack=3", AgentEndpoint("gpu01", 443, {"rack": "3"}, scheme="https")),
        ("https://[::1]:8443/team-a", AgentEndpoint("::1", 8443, scheme="https", path="/team-a")),
        ("gpu01 api_key_env=TEAM_A_KEY", AgentEndpoint("gpu01", tags={"api_key_env": "TEAM_A_KEY"})),
    ],
)
def test_reads_a_line(line: str, expected: AgentEndpoint) -> None:
    assert parse_hostfile_text(line) == [expected]


def test_keeps_the_order_and_skips_comments_and_blank_lines() -> None:
    text = "# the fleet\n\ngpu02\r\n   \t\n  # more\ngpu01\n\n"
    assert [endpoint.host for endpoint in parse_hostfile_text(text)] == ["gpu02", "gpu01"]


def test_reads_files_with_a_byte_order_mark_and_old_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "fleet.hostfile"
    path.write_bytes(b"\xef\xbb\xbfgpu01\r\ngpu02\rgpu03")
    assert [endpoint.host for endpoint in parse_hostfile(path)] == ["gpu01", "gpu02", "gpu03"]
    assert parse_hostfile(str(path)) == parse_hostfile(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("gpu01 99999", "expected a port from 1 to 65535, got 99999"),
        ("gpu01 123456", "expected a port from 1 to 65535 or a tag as key=value, got '123456'"),
        ("gpu01:0", "expected a port from 1 to 65535, got 0"),
        ("gpu01 -1", "expected a port from 1 to 65535 or a tag"),
        ("gpu01 ٨٠٠٠", "expected a port from 1 to 65535 or a tag"),
        ("gpu01 " + "9" * 5000, "expected a port from 1 to 65535 or a tag"),
        ("gpu01:", "expected a port from 1 to 65535"),
        ("[::1]:", "expected a port from 1 to 65535"),
        ("gpu01 large", "expected a port from 1 to 65535 or a tag as key=value"),
        ("gpu01:8000 8001", "the port is given already; expected key=value tags after it"),
        ("http://gpu01 8001", "the port is given already; expected key=value tags after it"),
        ("gpu01 8000 large", "expected a tag as key=value, got something else as word 3"),
        ("gpu01 8000 tier=large spare", "expected a tag as key=value, got something else as word 4"),
        ("gpu01 =large", "expected a tag as key=value"),
        ("gpu01 tier = large", "expected a port from 1 to 65535 or a tag as key=value"),
        ("gpu01 tier=large tier=small", "the tag 'tier' is given twice; expected each tag once"),
        ("tier=large", "expected a host name or address, got 'tier=large'"),
        ("8000", "expected a host name or address, got '8000'"),
        ("10.0.0.700", "expected a host name or address, got '10.0.0.700'"),
        ("10.0.7", "expected a host name or address, got '10.0.7'"),
        ("-gpu01", "expected a host name or address, got '-gpu01'"),
        ("gpu/01", "expected a host name or address, got 'gpu/01'"),
        (":8000", "expected a host name or address, got ''"),
        ("gpu01:8000:8001", "expected a host name or address, got 'gpu01:8000:8001'"),
        ("abc:1:2", "expected a host name or address, got 'abc:1:2'"),
        ("::1%", "expected a host name or address, got '::1%'"),
        ("::1%a/b", "expected a host name or address, got '::1%a/b'"),
        ("[::1", "expected an IPv6 address as [address] or [address]:port"),
        ("[::1]8000", "expected an IPv6 address as [address] or [address]:port"),
        ("[gpu01]:8000", "expected an IPv6 address as [address] or [address]:port"),
        ("http://", "expected a host name or address, got ''"),
        ("http://[::1", "expected an IPv6 address as [address] or [address]:port"),
        ("http://::1:8000", "expected a port from 1 to 65535"),
        ("ftp://gpu01", "expected http:// or https://, got 'ftp' before '://'"),
        ("http://gpu01/v1?x=1", "expected an address of scheme, host, port and path only"),
        ("http://user:word@gpu01", "expected an address of scheme, host, port and path only"),
        ("gpu01 api_key_env=not-a-name", "expected api_key_env to name an environment variable in capitals"),
        ("gpu01 api_key_env=", "expected api_key_env to name an environment variable in capitals"),
        ("gpu01 engine=lamacpp", "no engine 'lamacpp'; did you mean 'llamacpp'?"),
        ("gpu01 engine=vlm", "no engine 'vlm'; did you mean 'vllm'?"),
        (
            "gpu01 engine=tgi",
            "no engine 'tgi'; expected one of vllm, sglang, llamacpp, ollama, transformers, or no tag",
        ),
        ("gpu01 api_key=abc", "a hostfile never contains a key; expected api_key_env=NAME"),
    ],
)
def test_refuses_a_line_and_says_where_and_what_was_expected(line: str, reason: str) -> None:
    with pytest.raises(HostfileError, match=re.escape(reason)) as caught:
        parse_hostfile_text(f"# the fleet\n\n{line}\ngpu09\n", path="fleet.hostfile")
    assert str(caught.value).startswith("fleet.hostfile:3: ")
    assert (caught.value.path, caught.value.line) == ("fleet.hostfile", 3)


@pytest.mark.parametrize("engine", [*DIALECTS, "vLLM", "llama.cpp", "SGLang"])
def test_engines_with_a_dialect_may_be_named(engine: str) -> None:
    (endpoint,) = parse_hostfile_text(f"gpu01 engine={engine}\n")
    assert endpoint.tags["engine"] == engine
    assert DIALECTS.keys() == set(ENGINES)


def test_counts_lines_as_an_editor_does() -> None:
    with pytest.raises(HostfileError) as caught:
        parse_hostfile_text("gpu01\x0ctier=large\x0b\x85rack=3\u2028\ngpu02 99999")
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gpu01", "gpu01:8000 rack=3"),
        ("https://gpu01", "http://gpu01:443"),
    ],
)
def test_refuses_an_agent_that_is_listed_twice_and_otherwise(first: str, second: str) -> None:
    with pytest.raises(HostfileError, match="is listed in line 2 already, otherwise; expected each agent") as caught:
        parse_hostfile_text(f"gpu09\n{first}\n{second}\n", path="fleet.hostfile")
    assert (caught.value.path, caught.value.line) == ("fleet.hostfile", 3)


def test_two_prefixes_on_one_host_are_two_agents() -> None:
    assert len(parse_hostfile_text("https://gpu01/a\nhttps://gpu01/b\nhttps://gpu01/A")) == 3


def _missing(folder: Path) -> Path:
    return folder / "fleet.hostfile"


def _binary(folder: Path) -> Path:
    path = folder / "fleet.hostfile"
    path.write_bytes(b"\xff\xfe\x00")
    return path


def _nul(folder: Path) -> Path:
    return Path(f"{folder}/a\0b")


@pytest.mark.parametrize("make", [_missing, _binary, _nul])
def test_names_a_file_that_cannot_be_read(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(HostfileError, match=r"can't be read .*expected a text file, one agent a line") as caught:
        parse_hostfile(path)
    assert (caught.value.path, caught.value.line) == (str(path), None)


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(HostfileError, match="expected the path of a file or a folder, or a name, got ''"):
        parse_hostfile("")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing yet\n"])
def test_refuses_a_file_without_agents(text: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.hostfile"
    path.write_text(text)
    with pytest.raises(HostfileError, match="no agent in it; expected at least one line such as") as caught:
        parse_hostfile(path)
    assert (caught.value.path, caught.value.line) == (str(path), None)


KEY = "Sekret-0123456789"


@pytest.mark.parametrize(
    "line",
    [
        f"gpu01 {KEY}",
        f"gpu01:{KEY}",
        f"gpu01 8000 {KEY}",
        f"gpu01 8000 tier=large {KEY}",
        f"gpu01:8000 {KEY}",
        f"gpu01 api_key={KEY}",
        f"gpu01 API-Key={KEY}",
        f"gpu01 token={KEY}",
        f"gpu01 api_key_env={KEY}",
        "gpu01 api_key_env=Sekret_0123456789",
        f"gpu01 api_key = {KEY}",
        f"gpu01 tier=large {KEY} tier=small",
        f"https://user:{KEY}@gpu01",
        f"{KEY}@gpu01",
        f"https://gpu01/v1?key={KEY}",
    ],
)
def test_no_error_shows_a_key_that_stands_in_the_file(line: str) -> None:
    with pytest.raises(HostfileError) as caught:
        parse_hostfile_text(line)
    assert "Sekret" not in f"{caught.value!s} {caught.value!r} {caught.value.__cause__!r}"


def test_an_endpoint_knows_the_name_of_its_key_and_never_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_A_KEY", KEY)
    endpoint = AgentEndpoint("gpu01", tags={"api_key_env": "TEAM_A_KEY"})
    assert endpoint.api_key_env == "TEAM_A_KEY"
    assert KEY not in f"{endpoint!r} {endpoint} {format_hostfile([endpoint])}"
    assert AgentEndpoint("gpu01").api_key_env is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: AgentEndpoint(""),
        lambda: AgentEndpoint("gpu 01"),
        lambda: AgentEndpoint("[::1]"),
        lambda: AgentEndpoint("gpu01", 0),
        lambda: AgentEndpoint("gpu01", 65536),
        lambda: AgentEndpoint("gpu01", scheme="ftp"),
        lambda: AgentEndpoint("gpu01", path="team-a"),
        lambda: AgentEndpoint("gpu01", path="/team a"),
        lambda: AgentEndpoint("gpu01", path="/a?b"),
        lambda: AgentEndpoint("gpu01", tags={"": "large"}),
        lambda: AgentEndpoint("gpu01", tags={"a=b": "large"}),
        lambda: AgentEndpoint("gpu01", tags={"tier": "very large"}),
        lambda: AgentEndpoint("gpu01", tags={"tier": "#1"}),
        lambda: AgentEndpoint("gpu01", tags={"api_key": KEY}),
    ],
)
def test_no_endpoint_is_made_that_a_hostfile_could_not_hold(make: Callable[[], AgentEndpoint]) -> None:
    with pytest.raises(HostfileError) as caught:
        make()
    assert KEY not in str(caught.value)


def test_an_endpoint_has_an_address_to_send_to() -> None:
    assert AgentEndpoint("gpu01").base_url == "http://gpu01:8000"
    assert AgentEndpoint("::1", 8001).base_url == "http://[::1]:8001"
    assert AgentEndpoint("gpu01", 443, scheme="https", path="/team-a/v1/").base_url == "https://gpu01:443/team-a"
    assert str(AgentEndpoint("gpu01")) == "gpu01:8000"
    assert str(AgentEndpoint("gpu01", 443, scheme="https")) == "https://gpu01:443"


def test_an_endpoint_is_a_value() -> None:
    tags = {"tier": "large"}
    endpoint = AgentEndpoint("gpu01", tags=tags)
    tags["tier"] = "small"
    assert endpoint == AgentEndpoint("gpu01", tags={"tier": "large"})
    assert endpoint != AgentEndpoint("gpu01", tags={"tier": "small"})
    assert {endpoint: 1}[AgentEndpoint("gpu01", tags={"tier": "large"})] == 1
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint  # noqa: S301  (made in this line)
    assert copy.deepcopy(endpoint) == endpoint
    with pytest.raises(TypeError):
        endpoint.tags["tier"] = "small"  # type: ignore[index]


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.stem)
def test_the_examples_can_be_read(path: Path) -> None:
    endpoints = parse_hostfile(path)
    assert len(endpoints) >= 2
    assert parse_hostfile_text(format_hostfile(endpoints)) == endpoints


def test_there_is_an_example_of_each_kind() -> None:
    endpoints = {path.stem: parse_hostfile(path) for path in EXAMPLES.iterdir()}
    assert {endpoint.host for endpoint in endpoints["one-host"]} == {"localhost"}
    assert {endpoint.tags["tier"] for endpoint in endpoints["fleet"]} == {"large", "small"}
    assert all(endpoint.scheme == "https" and endpoint.api_key_env for endpoint in endpoints["https"])
    assert all(":" in endpoint.host for endpoint in endpoints["ipv6"])


labels = st.from_regex(r"[a-z]([a-z0-9_-]{0,8}[a-z0-9])?", fullmatch=True)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.builds("fe80::{:x}%{}".format, st.integers(1, 0xFFFF), labels),
)
words = st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"], exclude_characters="#="), min_size=1, max_size=12)
keys = words.map("x{}".format)  # no key with a meaning of its own, whose values may not be any
tags = st.dictionaries(keys, words | st.just(""), max_size=4)
paths = st.just("") | st.lists(labels, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
endpoints = st.builds(
    AgentEndpoint, hosts, st.integers(1, 65535), tags, scheme=st.sampled_from(["http", "https"]), path=paths
)
fleets = st.lists(endpoints, min_size=1, max_size=8, unique_by=lambda endpoint: (endpoint.host, endpoint.port))


@given(fleets)
def test_what_is_written_is_read_back_equal(fleet: list[AgentEndpoint]) -> None:
    text = format_hostfile(fleet)
    assert parse_hostfile_text(text) == fleet
    assert format_hostfile(parse_hostfile_text(text)) == text


@given(st.text())
def test_any_text_is_read_or_refused_with_its_place(text: str) -> None:
    try:
        endpoints = parse_hostfile_text(text, path="fleet.hostfile")
    except HostfileError as error:
        place = str(error)
    else:
        place = "fleet.hostfile:"
        assert endpoints
    assert place.startswith("fleet.hostfile:")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("gpu01", "gpu01"),
        ("gpu01 a=1", "gpu01:8000 a=1"),
        ("gpu01", "http://GPU01.:8000/v1"),
        ("::1", "[0:0:0:0:0:0:0:1]:8000"),
    ],
)
def test_an_agent_that_is_listed_again_counts_once(
    first: str, second: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a node file of PBS, which has a host once for each of its cores."""
    path = tmp_path / "nodes"
    path.write_text(f"{first}\n{second}\n{first}\ngpu09\n")
    for _ in range(2):  # as one that is followed: it is told once
        assert [one.host for one in parse_hostfile(path)][1:] == ["gpu09"]
    assert caplog.messages == [f"{path}: agents that are listed again count once: 2 lines"]


def test_a_number_of_slots_is_taken_for_a_port_with_a_hint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "nodes"
    parse_hostfile_text("gpu01:4\ngpu02 4\nhttps://gpu03\n", path=path)
    assert caplog.messages == [f"{path}: gpu01:4 has a port below 1024; if that is a number of slots, leave it out"]


def test_lists_of_nodes_are_written_out() -> None:
    found = parse_hostfile_text("gpu[08-10,12] 8001 tier=large\nx[1-2]c[0-1]\n[::1]:8000\n")
    assert [str(one) for one in found] == [
        *(f"gpu{n:02}:8001" for n in (8, 9, 10, 12)),
        *(f"x{a}c{b}:8000" for a in (1, 2) for b in (0, 1)),
        "[::1]:8000",
    ]
    for bad in ("gpu[3-1]", "gpu[1-]", "gpu[1-2-3]", "gpu[0-999999999]"):
        with pytest.raises(HostfileError, match=r"gpu\[|expected at most"):
            parse_hostfile_text(bad)
