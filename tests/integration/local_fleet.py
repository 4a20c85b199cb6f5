"""A fleet of real vLLM servers on this machine, without a GPU: build it, start it, stop it, or run a command beside it.

::

    python tests/integration/local_fleet.py run --agents 2 -- python -m pytest tests/integration
    python tests/integration/local_fleet.py start --agents 2 --hostfile /tmp/fleet.hostfile
    python tests/integration/local_fleet.py status --hostfile /tmp/fleet.hostfile
    python tests/integration/local_fleet.py stop --hostfile /tmp/fleet.hostfile

The hostfile names the fleet: ``FILE.fleet/`` beside it holds the logs and the numbers of its processes. It is written
when every server is ready and removed when the fleet stops. ``run`` sets AURORA_POOL_HOSTFILE for the command, exits
with its code and leaves no process behind, whatever ends it. The first use builds vLLM's environment (three minutes,
3.5 GB). Needs nothing but Python 3.11 on Linux, and for each server 3.5 GB of memory and a core.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.sessions import Interruptions, Session
from tests.integration.vllm_environment import (
    FleetError,
    VllmEnvironment,
    build,
    clean_environment,
    tail,
)
from tests.ports import free_ports

HOST = "127.0.0.1"
MODEL = "smollm2-135m"
MAX_MODEL_LEN = 2048  # tokens
BUSY = 60.0  # seconds; a server that refuses connections is not ready, one that answers late is only busy
READY_WITHIN = 600.0  # seconds; 30 to 40 are usual, and several times that on a busy CPU
COMMAND_GRACE = 10.0  # seconds that an interrupted command has to tidy up
GRACE = 5.0  # seconds from SIGTERM to SIGKILL; a server with open requests never ends by itself


@dataclass(frozen=True)
class Server:
    """One vLLM server: its port, the session of its processes, and the folder of its sockets and scratch files."""

    port: int
    session: Session
    scratch: str

    def healthy(self) -> bool:
        """Whether it answers 200 on /health, which means ready: until all is loaded it refuses connections."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=BUSY)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def end(self, *, grace: float) -> None:
        """End all its processes, with SIGKILL after ``grace`` seconds, and remove what they leave."""
        self.session.end(grace=grace)
        shutil.rmtree(self.scratch, ignore_errors=True)


class LocalFleet:
    """The fleet that a hostfile names. Its state is in files: any process may look at it, restart a server or stop it.

    >>> fleet = LocalFleet(Path("/tmp/fleet.hostfile"))
    >>> with Interruptions() as interruptions:
    ...     fleet.start([8001, 8002], vllm_environment(), interruptions)
    >>> fleet.servers[0].session.signal(signal.SIGKILL)
    >>> fleet.restart(0, vllm_environment())
    >>> fleet.stop()
    """

    def __init__(self, hostfile: Path) -> None:
        self.hostfile = hostfile.absolute()
        self.folder = Path(f"{self.hostfile}.fleet")
        self._state = self.folder / "state.json"

    @property
    def servers(self) -> list[Server]:
        """The servers, in the order of the hostfile; empty if no such fleet was started, or it was stopped."""
        try:
            records = json.loads(self._state.read_text())
        except FileNotFoundError:
            return []
        return [Server(**record | {"session": Session(**record["session"])}) for record in records]

    def start(self, ports: Sequence[int], environment: VllmEnvironment, interruptions: Interruptions) -> None:
        """Start a server on each port and return when all are ready; if one fails or a signal comes, stop them all."""
        if any(server.session.members() for server in self.servers):
            raise FleetError(f"the fleet of {self.hostfile} runs already; stop it first")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        servers: list[Server] = []
        try:
            for index, port in enumerate(ports):
                with interruptions.held():
                    servers.append(self._spawn(index, port, environment))
                    self._write_state(servers)
            self._wait_until_ready(enumerate(servers))
        except BaseException:
            with interruptions.held():
                self.stop()
            raise
        self.hostfile.write_text("".join(f"{HOST}\t{port}\n" for port in ports))

    def restart(self, index: int, environment: VllmEnvironment) -> None:
        """End one server, dead or alive, and start it again on its port; returns when it is ready, 30 s later."""
        servers = self.servers
        servers[index].end(grace=0)
        servers[index] = self._spawn(index, servers[index].port, environment)
        self._write_state(servers)
        self._wait_until_ready([(index, servers[index])])

    def stop(self) -> None:
        """End every process of the fleet and remove its hostfile; the logs stay until the next start."""
        self.hostfile.unlink(missing_ok=True)
        for server in self.servers:
            server.end(grace=GRACE)
        self._state.unlink(missing_ok=True)

    def log(self, index: int) -> Path:
        """The log of one server, its restarts included."""
        return self.folder / f"server-{index}.log"

    def _spawn(self, index: int, port: int, environment: VllmEnvironment) -> Server:
        command = [str(environment.python), "-P", "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(environment.model), "--served-model-name", MODEL]
        command += ["--host", HOST, "--port", str(port), "--disable-uvicorn-access-log"]
        command += ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "64", "--enforce-eager"]
        command += ["--dtype", "float32"]  # three times as fast as bfloat16 on a CPU without AVX512_BF16
        scratch = tempfile.mkdtemp(prefix="aurora-pool-vllm-")  # not beside the hostfile: a socket's path must be short
        env = clean_environment(
            HF_HUB_OFFLINE="1",
            OMP_NUM_THREADS="1",
            VLLM_ENABLE_V1_MULTIPROCESSING="0",  # no worker beside the engine: both spin, and would need a core each
            TMPDIR=scratch,
            TORCHDYNAMO_DISABLE="1",  # the first request with logprobs would wait for a C++ compiler, 16 s and more
            VLLM_CACHE_ROOT=scratch,
            VLLM_CPU_KVCACHE_SPACE="1",  # GiB
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_NO_USAGE_STATS="1",
        )
        return Server(port, Session.start(command, log=self.log(index), env=env), scratch)

    def _write_state(self, servers: Iterable[Server]) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps([asdict(server) for server in servers]))
        new.replace(self._state)

    def _wait_until_ready(self, servers: Iterable[tuple[int, Server]]) -> None:
        deadline = time.monotonic() + READY_WITHIN
        for index, server in servers:
            while not server.healthy():
                if not server.session.alive:
                    raise self._failed(index, "ended before it was ready")
                if time.monotonic() > deadline:
                    raise self._failed(index, f"is not ready after {READY_WITHIN:.0f} s")
                time.sleep(0.25)

    def _failed(self, index: int, how: str) -> FleetError:
        return FleetError(f"server {index} {how}; the end of {self.log(index)}:\n{tail(self.log(index))}")


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; return the exit code."""
    options, command = _parse(arguments)
    try:
        with Interruptions() as interruptions:
            match options.verb:
                case "build":
                    say(f"the vLLM environment is in {build(say, interruptions).folder}")
                case "start":
                    _start(LocalFleet(options.hostfile), options, interruptions)
                case "stop":
                    LocalFleet(options.hostfile).stop()
                case "status":
                    return _status(LocalFleet(options.hostfile))
                case "run":
                    return _run(options, command, interruptions)
                case "guard":
                    _guard(LocalFleet(options.hostfile))
    except FleetError as error:
        say(f"error: {error}")
        return 1
    return 0


def say(line: str) -> None:
    """Write one line of progress, apart from the output of the command that runs beside the fleet."""
    sys.stderr.write(f"local_fleet: {line}\n")
    sys.stderr.flush()


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="local_fleet.py", description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    agents = argparse.ArgumentParser(add_help=False)
    agents.add_argument("--agents", type=int, default=2, help="how many servers (default 2)")
    agents.add_argument("--base-port", type=int, help="the first of consecutive ports (default: any free ones)")
    hostfile = argparse.ArgumentParser(add_help=False)
    hostfile.add_argument("--hostfile", type=Path, required=True, help="names the fleet; written when it is ready")
    verbs.add_parser("build", help="make vLLM's environment and model, once")
    verbs.add_parser("start", parents=[agents, hostfile], help="start a fleet and leave it running")
    verbs.add_parser("stop", parents=[hostfile], help="end all of a fleet's processes")
    verbs.add_parser("status", parents=[hostfile], help="show a fleet's servers; exit code 1 unless all are ready")
    run = verbs.add_parser("run", parents=[agents], help="start a fleet, run a command beside it, stop the fleet")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    verbs.add_parser("guard", parents=[hostfile])  # for `run` alone, hence without help
    options = parser.parse_args(arguments)
    command = getattr(options, "command", [])[1:]
    if options.verb == "run" and (not command or options.command[0] != "--"):
        parser.error("run needs a command after --")
    if getattr(options, "agents", 1) < 1:
        parser.error("--agents must be 1 or more")
    return options, command


def _start(fleet: LocalFleet, options: argparse.Namespace, interruptions: Interruptions) -> None:
    environment = build(say, interruptions)
    first, count = options.base_port, options.agents
    ports = free_ports(count) if first is None else list(range(first, first + count))
    say(f"starting {count} vLLM servers on ports {', '.join(map(str, ports))} (about 40 s)")
    began = time.monotonic()
    fleet.start(ports, environment, interruptions)
    say(f"ready after {time.monotonic() - began:.0f} s: {fleet.hostfile}; logs in {fleet.folder}")


def _status(fleet: LocalFleet) -> int:
    servers = fleet.servers
    if not servers:
        say(f"no fleet of {fleet.hostfile} is running")
    healthy = [server.healthy() for server in servers]
    for server, ready in zip(servers, healthy, strict=True):
        state = "ready" if ready else "not ready" if server.session.alive else "dead"
        say(f"{HOST}:{server.port}\t{state}\tpids {' '.join(map(str, server.session.members())) or 'none'}")
    return 0 if servers and all(healthy) else 1


def _run(options: argparse.Namespace, command: Sequence[str], interruptions: Interruptions) -> int:
    folder = Path(tempfile.mkdtemp(prefix="aurora-pool-fleet-"))
    fleet = LocalFleet(folder / "hostfile")
    # Even kill -9 of this process closes the guard's input, and the guard stops the fleet then.
    guard = subprocess.Popen(
        [sys.executable, __file__, "guard", "--hostfile", str(fleet.hostfile)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    code = 1
    try:
        _start(fleet, options, interruptions)
        code = _run_beside(fleet, command, interruptions)
    finally:
        with interruptions.held():
            fleet.stop()
            guard.communicate()
            say("the fleet is stopped" + (f"; its logs are in {fleet.folder}" if code else ""))
            if not code:
                shutil.rmtree(folder)
    return code


def _run_beside(fleet: LocalFleet, command: Sequence[str], interruptions: Interruptions) -> int:
    with interruptions.held():
        try:
            session = Session.start(command, env=os.environ | {"AURORA_POOL_HOSTFILE": str(fleet.hostfile)})
        except OSError as error:
            raise FleetError(f"can't run {command[0]}: {error.strerror}") from error
        _command_file(fleet).write_text(json.dumps(asdict(session)))
    try:
        return session.wait()
    except SystemExit as interruption:
        with interruptions.held():
            session.signal(int(interruption.code or 0) - 128)  # the signal that came; the command may tidy up
            deadline = time.monotonic() + COMMAND_GRACE
            while session.alive and time.monotonic() < deadline:
                time.sleep(0.05)
        raise
    finally:
        with interruptions.held():
            session.end(grace=GRACE)


def _guard(fleet: LocalFleet) -> None:
    sys.stdin.read()  # ends when the process that holds the other end does
    if _command_file(fleet).exists():
        Session(**json.loads(_command_file(fleet).read_text())).end(grace=GRACE)
    fleet.stop()


def _command_file(fleet: LocalFleet) -> Path:
    return fleet.folder / "command.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
