from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from aurora_pool.hostfile_source import parse_hostfile

PROGRAM = """
import sys
from aurora_pool.testing import AgentProfile, serve
serve(3, sys.argv[1], profile=AgentProfile(reply="ok"), time_scale=100,
      ready=lambda fleet: print(len(fleet.agents), flush=True))
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_fleet_as_a_process_writes_its_hostfile_when_it_listens(tmp_path: Path, signum: signal.Signals) -> None:
    hostfile = tmp_path / "fleet.hostfile"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(hostfile)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "3\n"
        for endpoint in parse_hostfile(hostfile):
            with urllib.request.urlopen(endpoint.base_url + "/health", timeout=30) as reply:  # noqa: S310 - our own
                assert reply.status == 200
        process.send_signal(signum)
        assert process.wait(30) == 0
    assert not hostfile.exists()


def test_importing_the_package_imports_no_server() -> None:
    code = "import sys, aurora_pool.testing; sys.exit('aiohttp.web' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_every_name_is_there() -> None:
    from aurora_pool import testing

    assert all(getattr(testing, name) for name in testing.__all__)
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        testing.nope  # noqa: B018 - looking is the test
