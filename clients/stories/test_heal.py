"""Each monitor sees its app fall ill, agentd heals it on the word of that monitor, and a killed server costs nobody anything."""

import json
import os
import signal

import pytest
from conftest import DEADLINE, App, Server, start_monitor, wait_for


class Monitor:
    """The monitor of one language, as a user starts it."""

    def __init__(self, server: Server, language: str, app: App) -> None:
        self.language, self.app = language, app
        self.source = f"mon-{language}@{language}"
        (server.dir / f"{language}.pid").write_text(str(app.pid()))
        self._log = server.dir / f"monitor-{language}.log"
        self.process = start_monitor(
            server, language, "--app", app.name, "--token-file", server.token_file(language), "--url", app.url,
            "--pid", server.dir / f"{language}.pid", "--every", "250ms", "--probe-every", "100ms", log=self._log,
        )  # fmt: skip

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> dict:
        """TERM; what became of its signals, by its own word."""
        assert self.process.poll() is None, self.log()
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=DEADLINE)
        assert self.process.returncode == 0, f"{self.language}: {self.process.returncode}\n{self.log()}"
        return json.loads(out)


@pytest.fixture
def bed(server_of, languages):
    server = server_of({language: [f"app-{language}"] for language in languages})
    monitors = []
    for port, language in enumerate(languages, 8080):
        monitors.append(Monitor(server, language, App(server, f"app-{language}", port)))
    wait_for("all monitors are connected", lambda: server.status()["monitors"] == len(monitors))
    yield server, monitors
    for monitor in monitors:
        if monitor.process.poll() is None:
            monitor.process.kill()
            monitor.process.wait()


def falls_ill_and_is_healed(server: Server, monitor: Monitor, instances: int) -> None:
    """The app gets more work than it can do; another instance is started, because this monitor said how slow it is."""
    before = server.head()
    monitor.app.load(1000, instances)
    decided = server.wait_record(
        f"{monitor.source} has {monitor.app.name} scaled up",
        lambda r: r["seq"] > before
        and r["event_name"] == "RL_DECISION"
        and r.get("app") == monitor.app.name
        and r["body"]["decided"]["proposal"]["action"] == "SCALE_UP"
        and monitor.source in json.dumps(r),
    )
    server.wait_record(
        f"{monitor.app.name} is verified",
        lambda r: r["event_name"] == "SYSTEM_STABLE"
        and r.get("app") == monitor.app.name
        and r["body"]["concluded"]["decision"] >= decided["seq"],
    )


def crashes_and_is_healed(server: Server, app: App) -> None:
    before = server.head()
    os.kill(app.pid(), signal.SIGKILL)
    server.wait_record(
        f"the restart of {app.name} is verified",
        lambda r: r["seq"] > before and r["event_name"] == "SYSTEM_STABLE" and r.get("app") == app.name,
    )


def test_every_monitor_has_its_app_healed_and_outlives_the_server(bed):
    server, monitors = bed
    for monitor in monitors:
        falls_ill_and_is_healed(server, monitor, 2)

    server.kill9()
    server.up()
    wait_for(
        "all monitors are back by themselves",
        lambda: server.status()["monitors"] == len(monitors),
        lambda: "\n".join(monitor.log() for monitor in monitors),
    )
    for monitor in monitors:
        falls_ill_and_is_healed(server, monitor, 3)

    crashes_and_is_healed(server, monitors[0].app)

    for monitor in monitors:
        told = monitor.stop()
        assert told["lost_streams"] >= 1, monitor.language
        assert told["acked_seq"] == told["last_seq"], f"{monitor.language}: {told}"
        lost = {name: told[name] for name in ("pending", "dropped", "rejected", "missed")}
        assert not any(lost.values()), f"{monitor.language}: {lost}\n{monitor.log()}"
        # Every signal that is acknowledged was counted once by the server that acknowledged it.
        assert told["accepted"] + told["duplicates"] == told["acked_seq"] > 0, f"{monitor.language}: {told}"
    assert "monitor left" in server.log()
