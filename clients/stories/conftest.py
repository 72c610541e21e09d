"""A real agentd in a directory of its own, for the stories of all clients. Nothing of it outlives the test."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentctl_signals import Options, SignalClient, Target
from foreign import Foreign, about

from agentctl.v1 import telemetry_pb2
from agentctl.v1.telemetry_pb2_grpc import TelemetryServiceStub

ROOT = Path(__file__).resolve().parents[2]
AGENTCTL = Path(os.environ.get("AGENTCTL", ROOT / "target/debug/agentctl")).resolve()
DEADLINE = 60.0

CLIENTS = ROOT / "clients"
# How each monitor is started, once `clients/test` has built it.
MONITORS: dict[str, list[str]] = {
    "python": [sys.executable, "-m", "agentctl_signals.monitor"],
    "go": [str(CLIENTS / "go/target/agentctl-monitor")],
    "typescript": ["node", str(CLIENTS / "typescript/dist/src/monitor.js")],
    "java": ["java", "-XX:TieredStopAtLevel=1", "-jar", str(CLIENTS / "java/target/monitor.jar")],
}

# The policy of stage with times that suit a test; the same restraints are in it, only further away.
QUICK = {
    "hold_ms": 300, "deadline_ms": 20_000, "min_uptime_ms": 200, "RESTART": 100, "SCALE_UP": 100, "SCALE_DOWN": 100,
    "restart_cap_ms": 100, "limit": 45, "identical": 45, "flap_changes": 9, "flap_window_ms": 100,
}  # fmt: skip


def wait_for(what: str, look: Callable[[], Any], hint: Callable[[], str] = lambda: "") -> Any:
    """Waits until `look` finds something."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.1)
    pytest.fail(f"never happened: {what}\n{hint()}")


class Server:
    """agentd of stage, which can be killed and started again on the same data and the same address."""

    def __init__(self, directory: Path, bound: dict[str, list[str]], *flags: str) -> None:
        self.dir, self.data = directory, directory / "data"
        self.address = "127.0.0.1:0"
        self.trust: list[str] = []
        self.process: subprocess.Popen | None = None
        self.starts, self.flags = 0, flags
        policy = (ROOT / "deploy/policy/stage.toml").read_text()
        for name, value in QUICK.items():
            policy, found = re.subn(rf"^{name} = \d+$", f"{name} = {value}", policy, flags=re.M)
            assert found, name
        (directory / "policy.toml").write_text(policy)
        self._principals(bound)
        self.up()

    def _principals(self, bound: dict[str, list[str]]) -> None:
        """A token for us, and one for each monitor that is bound to its apps."""
        text = ""
        for name, apps in [("local", None), *bound.items()]:
            token = f"agt_{secrets.token_hex(32)}"
            roles = '["viewer", "operator"]' if apps is None else '["monitor"]'
            text += f'[[principal]]\nname = "{name}"\nroles = {roles}\ntoken = "{token}"\n'
            if apps is not None:
                text += f"apps = {json.dumps(apps)}\n"
            self._private(f"{name}.token", token)
        self._private("tokens.toml", text)

    def _private(self, name: str, text: str) -> None:
        (self.dir / name).touch(mode=0o600)
        (self.dir / name).write_text(text)

    def token_file(self, principal: str) -> Path:
        return self.dir / f"{principal}.token"

    def environment(self) -> dict[str, str]:
        """Nothing of this machine's configuration counts."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.dir), "NO_COLOR": "1"}

    def up(self) -> None:
        self.starts += 1
        with (self.dir / f"server-{self.starts}.log").open("w") as log:
            self.process = subprocess.Popen(
                [AGENTCTL, "up", "-o", "json", "--env", "stage", "--listen", self.address, "--data-dir", self.data,
                 "--tokens", self.dir / "tokens.toml", "--policy", self.dir / "policy.toml", "--loop-interval", "100ms",
                 *self.flags],
                stdout=subprocess.PIPE, stderr=log, env=self.environment(), cwd=self.dir,
            )  # fmt: skip
        line = self.process.stdout.readline()
        assert line, self.log()
        self.address = json.loads(line)["address"]

    def kill9(self) -> None:
        self.process.kill()
        self.process.wait()

    def log(self) -> str:
        logs = (self.dir / f"server-{n}.log" for n in range(1, self.starts + 1))
        return "".join(log.read_text() for log in logs)

    def ctl(self, *words: str) -> str:
        """Runs a command of agentctl and returns its stdout."""
        run = subprocess.run(
            [AGENTCTL, "--address", self.address, "--token-file", self.token_file("local"), *self.trust, *words],
            capture_output=True, text=True, env=self.environment(), timeout=DEADLINE,
        )  # fmt: skip
        assert run.returncode == 0, f"{words}: {run.returncode}\n{run.stdout}{run.stderr}"
        return run.stdout

    def status(self) -> dict:
        return json.loads(self.ctl("status", "-o", "json"))

    def records(self) -> list[dict]:
        """The proof log as its export has it."""
        return [json.loads(line) for line in self.ctl("proof", "export").splitlines()]

    def head(self) -> int:
        return self.records()[-1]["seq"]

    def wait_record(self, what: str, is_it: Callable[[dict], bool]) -> dict:
        """Waits until the log holds such a record, and returns the first."""

        def hint() -> str:
            return f"{self.log()[-4000:]}\n{self.ctl('proof', 'tail', '--no-follow', '-n', '40')}"

        return wait_for(what, lambda: next(filter(is_it, self.records()), None), hint)

    def counted(self, event: str) -> int:
        """How often something happened at the port."""
        headers = {"authorization": f"Bearer {self.token_file('local').read_text()}"}
        with urllib.request.urlopen(urllib.request.Request(f"http://{self.address}/metrics", headers=headers), timeout=30) as page:
            text = page.read().decode()
        name = f'event="{event}"'
        return next(int(line.split()[-1]) for line in text.splitlines() if line.startswith("agentctl_port_events") and name in line)

    def stop(self) -> None:
        """Ends the server and the apps below its directory, which would outlive it."""
        if self.process and self.process.poll() is None:
            self.kill9()
        mark = str(self.dir).encode()
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
                pass


def start_monitor(server: Server, language: str, *words: str | Path, log: Path, **environment: str) -> subprocess.Popen:
    """Starts the monitor of a language as a user does; what it prints stays in the pipe, what it logs goes to a file."""
    environment |= {"PYTHONPATH": str(CLIENTS / "python/src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*MONITORS[language], "--env", "stage", "--address", server.address, "--id", f"mon-{language}", *words]
    with log.open("w") as stderr:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=server.environment() | environment
        )


def reading(server: Server, app: str) -> dict[str, Any]:
    """What decisions see of an app now: its metrics and conditions by name."""
    token = server.token_file("local").read_text()
    with grpc.insecure_channel(server.address) as channel:
        request = telemetry_pb2.WatchSignalsRequest(apps=[app])
        metadata = (("authorization", f"Bearer {token}"),)
        answers = TelemetryServiceStub(channel).WatchSignals(request, metadata=metadata, timeout=DEADLINE)
        found = next(iter(answers)).readings[0]
        answers.cancel()
    return {metric.name: metric.value for metric in found.metrics} | dict(found.conditions)


class App:
    """A web app under the server's care, whose instances share the work."""

    def __init__(self, server: Server, name: str, port: int) -> None:
        self.name, self.dir = name, server.dir / name
        # All of 127/8 is loopback: an address of this test alone.
        self.url = f"http://127.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}.7:{port}/"
        self.dir.mkdir()
        self.load(0, 1)
        listen = self.url.removeprefix("http://").rstrip("/")
        server.ctl(
            "onboard", name, "--runtime", "python", "--exec", os.path.abspath(sys.executable), "--listen", listen, "--max", "3",
            "--health-url", "/healthz", "--health-interval", "200ms", "--threshold", "latency=0.8:0.6", "--wait",
            "--", str(Path(__file__).with_name("app.py")), str(self.dir),
        )  # fmt: skip

    def load(self, ms: int, instances: int) -> None:
        """From now on requests take `ms` while fewer instances than that run."""
        new = self.dir / "load.new"
        new.write_text(f"{ms} {instances}")
        new.rename(self.dir / "load")

    def pid(self) -> int:
        with urllib.request.urlopen(f"{self.url}info", timeout=10) as answer:
            return json.load(answer)["pid"]


@pytest.fixture
def server_of(tmp_path):
    """Starts servers with monitors that are bound to apps; ends them and their apps."""
    servers = []

    def start(bound: dict[str, list[str]], *flags: str) -> Server:
        servers.append(Server(tmp_path, bound, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def languages() -> list[str]:
    """The clients whose monitors are built: all of them, unless LANGUAGES names some."""
    return os.environ.get("LANGUAGES", " ".join(MONITORS)).split()


@pytest.fixture
def beside(server_of):
    """A server, a foreign client, and a good client that pushes all the while and must notice nothing."""
    server = server_of({"foreign": ["good"], "beside": ["good"]})
    App(server, "good", 8090)
    App(server, "another", 8091)
    target = Target.parse(server.address)
    token = server.token_file("beside").read_text()
    lines: list[str] = []
    good = SignalClient(Options(target, token, "stage", "beside", log=lines.append))
    over = threading.Event()

    def say() -> None:
        good.push(about(memory_utilization=0.2))
        while not over.wait(0.1):
            good.push(about(memory_utilization=0.2))

    talk = threading.Thread(target=say)
    talk.start()
    foreign = Foreign(server, "foreign")
    yield server, foreign
    over.set()
    talk.join()
    assert good.close()
    stats = good.stats()
    assert stats.acked_seq == stats.last_seq == stats.accepted > 0, stats
    assert (stats.rejected, stats.missed, stats.dropped, stats.lost_streams) == (0, 0, 0, 0), lines
    assert lines == []
