"""Apps that are measured behind an OpenTelemetry Collector: its exporters bring to agentd what SDKs told it."""

import os
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import otlp
import pytest
from conftest import CLIENTS, App, wait_for
from test_otlp import healed

CONFIG = """\
receivers:
  otlp/grpc: {{protocols: {{grpc: {{endpoint: "{grpc}"}}}}}}
  otlp/http: {{protocols: {{grpc: {{endpoint: "{http}"}}}}}}
exporters:
  otlp: {{endpoint: "{server}", tls: {{insecure: true}}, headers: {{authorization: "{bearer}"}}}}
  otlphttp: {{endpoint: "http://{server}", headers: {{authorization: "{bearer}"}}}}
service:
  pipelines:
    metrics/grpc: {{receivers: [otlp/grpc], exporters: [otlp]}}
    metrics/http: {{receivers: [otlp/http], exporters: [otlphttp]}}
"""


def free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def collector(server, directory):
    """A Collector before the server: what comes in at `grpc` and `http` goes on by that protocol. Ends with what it logged."""
    program = directory / "collector"
    subprocess.run(["go", "build", "-o", program, "."], cwd=CLIENTS / "stories/collector", check=True)
    doors = SimpleNamespace(grpc=free(), http=free(), log=directory / "collector.log")
    config = directory / "collector.yaml"
    config.write_text(CONFIG.format(grpc=doors.grpc, http=doors.http, server=server.address, bearer=otlp.bearer(server, "sdk")))
    with doors.log.open("w") as log:
        run = subprocess.Popen([program, "--config", config], env=server.environment(), stderr=log)
    try:
        wait_for("the Collector is there", lambda: "Everything is ready" in doors.log.read_text(), doors.log.read_text)
        yield doors
    finally:
        run.terminate()
        run.wait(timeout=30)


@contextmanager
def slow_app(door, app: str):
    """An app that serves slowly all the while, and says so."""
    provider, over = otlp.provider(door, "sdk", app, "grpc"), threading.Event()
    duration = provider.get_meter("story").create_histogram("http.server.request.duration", unit="s")

    def serve() -> None:
        while not over.wait(0.02):
            duration.record(2.0)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield
    finally:
        over.set()
        serving.join()
        provider.shutdown()


def test_an_app_behind_a_collector_is_healed_and_what_is_refused_is_told_to_the_collector(server_of, tmp_path):
    if not shutil.which("go"):
        assert not os.environ.get("CI"), "CI has Go"
        pytest.skip("no Go on this machine")
    server = server_of({"sdk": ["web-grpc", "web-http"]})
    with collector(server, tmp_path) as doors:
        for port, protocol in enumerate(("grpc", "http"), 8130):
            app, before = App(server, f"web-{protocol}", port), server.head()
            # To the SDK it is an OTLP endpoint like any other; the token is the Collector's.
            door = SimpleNamespace(address=getattr(doors, protocol), token_file=server.token_file)
            with slow_app(door, app.name):
                healed(server, app, "otlp@sdk", before)
            with slow_app(door, f"nobody-{protocol}"):
                told = lambda protocol=protocol: f"nobody-{protocol}" in (log := doors.log.read_text()) and "UNKNOWN_APP" in log  # noqa: E731
                wait_for("the Collector is told", told, doors.log.read_text)
