"""Apps that measure themselves with OpenTelemetry: healed on the word of a stock SDK, and what is refused is told with its reason."""

import gzip
import json
import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import grpc
import otlp
import pytest
from conftest import CLIENTS, App, reading, wait_for
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as pb


def healed(server, app: App, source: str, before: int) -> None:
    """Another instance was started because of what this source said, and that helped."""
    server.wait_record(
        f"{app.name} is scaled up on the word of {source}",
        lambda r: r["seq"] > before
        and r["event_name"] == "RL_DECISION"
        and r.get("app") == app.name
        and r["body"]["decided"]["proposal"]["action"] == "SCALE_UP"
        and source in json.dumps(r),
    )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_app_with_the_stock_sdk_of_python_is_healed(server_of, protocol):
    server = server_of({"sdk": ["web"]})
    app = App(server, "web", 8100)
    before = server.head()
    provider = otlp.provider(server, "sdk", "web", protocol)
    duration = provider.get_meter("story").create_histogram("http.server.request.duration", unit="s")

    def serve_slowly() -> bool:
        for _ in range(20):
            duration.record(2.0, {"http.request.method": "GET", "http.response.status_code": 200})
        return any(r["seq"] > before and r["event_name"] == "FINDING_RAISED" for r in server.records())

    try:
        wait_for("the latency is a finding", serve_slowly, lambda: server.log()[-4000:])
        healed(server, app, "otlp@sdk", before)
    finally:
        provider.shutdown()


def test_an_app_with_the_stock_sdk_of_go_is_healed(server_of, tmp_path):
    if not shutil.which("go"):
        assert not os.environ.get("CI"), "CI has Go"
        pytest.skip("no Go on this machine")
    program = tmp_path / "otlp-go"
    subprocess.run(["go", "build", "-o", program, "."], cwd=CLIENTS / "stories/otlp-go", check=True)
    server = server_of({"sdk": ["web-grpc", "web-http"]})
    for port, protocol in enumerate(("grpc", "http"), 8120):
        app = App(server, f"web-{protocol}", port)
        before = server.head()
        environment = server.environment() | {
            "OTEL_RESOURCE_ATTRIBUTES": f"service.name={app.name},deployment.environment.name=stage",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={otlp.bearer(server, 'sdk').replace(' ', '%20')}",
        }
        run = subprocess.Popen([program, protocol, server.address], env=environment, stderr=subprocess.PIPE, text=True)
        try:
            healed(server, app, "otlp@sdk", before)
        finally:
            run.terminate()
            _, said = run.communicate(timeout=30)
        assert "partial success" not in said.lower(), said


@pytest.fixture
def bed(server_of):
    server = server_of({"sdk": ["good"]})
    App(server, "good", 8102)
    App(server, "another", 8103)
    return server


def told(response: pb.ExportMetricsServiceResponse) -> tuple[int, str]:
    return response.partial_success.rejected_data_points, response.partial_success.error_message


def test_what_is_refused_is_told_with_its_reason_and_the_rest_is_taken(bed):
    share = lambda value, **more: otlp.gauge("process.cpu.utilization", value, **more)  # noqa: E731
    good = share(0.25)
    assert told(otlp.send(bed, "sdk", otlp.export("good", good))) == (0, "")
    assert told(otlp.send(bed, "sdk", otlp.export("good", otlp.gauge("my.own.metric", 7.0)))) == (0, ""), "ignored"
    cases = {
        "an unknown app": (otlp.export("nobody", good), 1, "UNKNOWN_APP"),
        "an app of somebody else": (otlp.export("another", good), 1, "UNKNOWN_APP"),
        "no app": (otlp.export("unknown_service", good), 1, "UNKNOWN_APP"),
        "another environment": (otlp.export("good", good, environment="prod"), 1, "deployment.environment.name"),
        "no environment": (otlp.export("good", good, environment=None), 1, "OTEL_RESOURCE_ATTRIBUTES"),
        "not a number": (otlp.export("good", share(math.nan)), 1, "NOT_FINITE: cpu_utilization"),
        "infinity": (otlp.export("good", share(math.inf)), 1, "NOT_FINITE: cpu_utilization"),
        "negative": (otlp.export("good", share(-0.5)), 1, "NEGATIVE: cpu_utilization"),
        "from the future": (otlp.export("good", share(0.5, ahead=3600)), 1, "CLOCK_SKEW: time"),
        "ancient": (otlp.export("good", share(0.5, ahead=-3600)), 1, "STALE: time"),
        "an unknown unit": (otlp.export("good", share(0.5, unit="furlong")), 1, "unknown unit `furlong`"),
        "too many attributes": (
            otlp.export("good", share(0.5, labels=otlp.attributes(**{f"a{n}": "x" for n in range(129)}))), 1,
            "more than 128 attributes",
        ),
        "a histogram that does not add up": (
            otlp.export("good", otlp.requests([1, 2], [0.1, 0.5])), 1, "one bucket more than bounds",
        ),
    }  # fmt: skip
    for what, (request, points, reason) in cases.items():
        rejected, message = told(otlp.send(bed, "sdk", request))
        assert rejected == points and reason in message, f"{what}: {rejected} {message}"
    both = otlp.export("nobody", good)
    both.MergeFrom(otlp.export("good", otlp.gauge("process.cpu.utilization", 0.375)))
    rejected, message = told(otlp.send(bed, "sdk", both))
    assert rejected == 1 and "nobody" in message
    wait_for("the good one is seen", lambda: reading(bed, "good").get("cpu_utilization") == 0.375)


def test_an_app_of_somebody_else_is_answered_like_one_that_does_not_exist(bed):
    good = otlp.gauge("process.cpu.utilization", 0.25)
    answers = {told(otlp.send(bed, "sdk", otlp.export(app, good)))[1].replace(app, "APP") for app in ("nobody", "another")}
    assert len(answers) == 1, answers


def test_conventions_become_what_decisions_look_at(bed):
    slow = otlp.requests([0, 90, 10, 0], [0.1, 0.5, 1.0], http__response__status_code=200)
    failed = otlp.requests([25, 0, 0, 0], [0.1, 0.5, 1.0], http__response__status_code=503)
    request = otlp.export(
        "good", slow, failed, otlp.gauge("container.memory.working_set", 512.0, unit="MiBy"),
        otlp.gauge("k8s.container.memory.limit", float(1 << 30), unit="By"), otlp.gauge("k8s.container.restart.count", 3.0, unit="{restart}"),
        otlp.gauge("system.cpu.utilization", 0.99),
    )  # fmt: skip
    assert told(otlp.send(bed, "sdk", request)) == (0, "")
    seen = wait_for("it is seen", lambda: "request_rate" in (found := reading(bed, "good")) and found)
    for name, value in [("memory_utilization", 0.5), ("error_ratio", 0.2), ("request_rate", 12.5), ("restart_count", 3)]:
        assert seen[name] == pytest.approx(value, rel=1e-3), seen
    assert 0.1 < seen["latency_p50"] < 0.5 < seen["latency_p99"] < 1.0


def post(server, body: bytes, **headers: str) -> tuple[int, bytes, dict]:
    """A request by HTTP/1.1 to the door for metrics."""
    named = {"authorization": otlp.bearer(server, "sdk"), "content-type": "application/x-protobuf"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{server.address}/v1/metrics", body, named)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def test_over_http_it_is_protobuf_or_json_packed_or_not(bed):
    request = otlp.export("good", otlp.gauge("process.cpu.utilization", 0.25))
    status, body, headers = post(bed, request.SerializeToString())
    assert (status, headers["content-type"]) == (200, "application/x-protobuf")
    assert not pb.ExportMetricsServiceResponse.FromString(body).HasField("partial_success")
    assert post(bed, gzip.compress(request.SerializeToString()), content_encoding="gzip")[0] == 200
    # The JSON of OTLP has numbers for enumerations; times are text because they are 64 bits wide.
    as_json = json.dumps(MessageToDict(otlp.export("nobody", otlp.gauge("process.cpu.utilization", 0.25)), use_integers_for_enums=True))
    status, body, _ = post(bed, as_json.encode(), content_type="application/json; charset=utf-8")
    assert status == 200 and "UNKNOWN_APP" in json.loads(body)["partialSuccess"]["errorMessage"], body


def test_bodies_that_are_none_have_their_answer_and_the_next_one_is_welcome(bed):
    good = otlp.export("good", otlp.gauge("process.cpu.utilization", 0.25)).SerializeToString()
    labels = otlp.attributes(**{f"label-{n:06}": "x" for n in range(100_000)})
    cases = {
        "truncated": (400, good[:-3], {}),
        "noise": (400, bytes(range(256)), {}),
        "deeply nested": (400, b"\x0b" * 20_000 + b"\x0c" * 20_000, {}),
        "not JSON": (400, b"{", {"content_type": "application/json"}),
        "deeply nested JSON": (400, b'{"resourceMetrics":' + b"[" * 100_000, {"content_type": "application/json"}),
        "another type": (415, good, {"content_type": "text/plain"}),
        "another packing": (415, good, {"content_encoding": "zstd"}),
        "not gzip": (400, good, {"content_encoding": "gzip"}),
        "more than 4 MiB": (413, b"x" * (5 << 20), {}),
        "a bomb": (413, gzip.compress(b"\0" * (100 << 20)), {"content_encoding": "gzip"}),
        "no token": (401, good, {"authorization": "Bearer agt_nobody"}),
        "a token that is no monitor's": (403, good, {"authorization": otlp.bearer(bed, "local")}),
    }
    for what, (expected, body, headers) in cases.items():
        status, answer, _ = post(bed, body, **headers)
        assert status == expected, f"{what}: {status} {answer[:300]}"
    crowded = otlp.export("good", otlp.gauge("process.cpu.utilization", 0.5, labels=labels))
    status, body, _ = post(bed, crowded.SerializeToString())
    assert status == 200
    assert "128 attributes" in pb.ExportMetricsServiceResponse.FromString(body).partial_success.error_message
    assert post(bed, good)[0] == 200


def test_over_grpc_what_is_no_request_ends_with_a_status(bed):
    good = otlp.export("good", otlp.gauge("process.cpu.utilization", 0.25)).SerializeToString()
    for what, body, code in [
        ("truncated", good[:-3], grpc.StatusCode.INTERNAL),
        ("deeply nested", b"\x0b" * 20_000 + b"\x0c" * 20_000, grpc.StatusCode.INTERNAL),
        ("more than 4 MiB", b"x" * (5 << 20), grpc.StatusCode.OUT_OF_RANGE),
    ]:
        with pytest.raises(grpc.RpcError) as raised:
            otlp.send(bed, "sdk", body)
        assert raised.value.code() == code, what
    for principal, code in [("local", grpc.StatusCode.PERMISSION_DENIED)]:
        with pytest.raises(grpc.RpcError) as raised:
            otlp.send(bed, principal, good)
        assert raised.value.code() == code
    assert told(otlp.send(bed, "sdk", pb.ExportMetricsServiceRequest.FromString(good))) == (0, "")


def test_a_sender_that_screams_is_told_when_to_come_again_and_memory_stays_bounded(bed):
    many = otlp.export("good", otlp.gauge("process.cpu.utilization", 0.25))
    # Nothing is in them: they cost the server little, whatever it runs on, and the sender as much as others.
    for _ in range(20_000):
        many.resource_metrics.add()
    body = many.SerializeToString()
    end = time.monotonic() + 60
    while True:
        status, answer, headers = post(bed, body)
        if status == 429:
            break
        assert status == 200 and time.monotonic() < end, answer
    assert int(headers["retry-after"]) >= 1
    with open(f"/proc/{bed.process.pid}/status") as file:
        [resident] = [int(line.split()[1]) for line in file if line.startswith("VmRSS:")]
    assert resident < 256 * 1024


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_address_of_its_own_takes_what_a_stock_sdk_sends(server_of, protocol):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    server = server_of({"sdk": ["good"]}, f"--otlp-{protocol}-listen", address)
    App(server, "good", 8106)
    there = SimpleNamespace(address=address, token_file=server.token_file)
    provider = otlp.provider(there, "sdk", "good", protocol)
    share = provider.get_meter("story").create_gauge("process.cpu.utilization", unit="1")
    try:
        share.set(0.42)
        wait_for("it counts", lambda: reading(server, "good").get("cpu_utilization") == 0.42, server.log)
    finally:
        provider.shutdown()
    bad = urllib.request.Request(f"http://{address}/v1/metrics", b"{}", {"content-type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(bad, timeout=30)
    assert refused.value.code == 401, "a token is needed there too"
