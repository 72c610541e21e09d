import threading

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from agentctl.v1 import telemetry_pb2 as pb
from agentctl_signals import Options, Signal, SignalClient, Target


@pytest.fixture
def client_of(server):
    def make(**more):
        lines: list[str] = []
        more = {"ack_every": 30.0, **more}
        options = Options(
            Target.parse(f"127.0.0.1:{server.port}"), "agt_x", "stage", "edge", log=lines.append, **more
        )
        client = SignalClient(options)
        client.lines = lines
        return client

    return make


def reading():
    return Signal(app="web", cpu_utilization=0.5)


def abort(code, *details):
    """Ends a stream with a status and its details."""
    status = status_pb2.Status(code=code.value[0], message="no")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return rpc_status.to_status(status)


def test_a_stream_has_hello_numbered_batches_and_a_goodbye(server, client_of):
    with client_of(ttl=3.0) as client:
        client.push(reading())
        client.push([reading(), reading()])
    [hello, *batches, bye] = server.streams[0]
    assert (hello.hello.monitor_id, hello.hello.environment, hello.hello.default_ttl.seconds) == ("edge", "stage", 3)
    assert hello.hello.epoch != 0
    assert [b.batch.seq for b in batches] == [1, 2]
    assert all(s.HasField("time") for b in batches for s in b.batch.signals)
    assert bye.HasField("bye")
    assert server.tokens == ["Bearer agt_x"]


def test_what_was_not_acknowledged_is_sent_again_under_its_number(server, client_of):
    def dies_after_two(messages, context):
        for _ in range(3):
            next(messages)
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.script = [dies_after_two]
    client = client_of()
    for _ in range(4):
        client.push(reading())
    assert client.close()
    assert server.batches(0)[:2] == [1, 2]
    assert server.batches(1) == [1, 2, 3, 4], "the summary never came, so all of it"
    assert server.streams[0][0].hello.epoch == server.streams[1][0].hello.epoch
    stats = client.stats()
    assert (stats.acked_seq, stats.pending, stats.dropped, stats.lost_streams) == (4, 0, 0, 1)


def test_a_summary_now_and_then_empties_the_buffer(server, client_of):
    client = client_of(buffer=4, ack_every=30.0)
    for _ in range(12):
        client.push(reading())
        # Half full is the moment to ask; nothing is lost as long as the server answers.
        while client.stats().pending > 2:
            threading.Event().wait(0.005)
    assert client.close()
    assert len(server.streams) > 1
    assert [s for n in range(len(server.streams)) for s in server.batches(n)] == list(range(1, 13))
    assert client.stats().dropped == 0


def test_a_server_that_is_away_costs_the_oldest_and_nothing_else(server, client_of):
    def gone(_messages, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.script = [gone] * 3
    client = client_of(buffer=5)
    for _ in range(20):
        client.push(reading())
    assert client.close()
    got = {seq for stream in range(3, len(server.streams)) for seq in server.batches(stream)}
    assert 20 in got, "the newest is there"
    assert client.stats().dropped == 20 - len(got)


def test_a_refusal_is_final_and_says_why(server, client_of):
    info = error_details_pb2.ErrorInfo(reason="ROLE_REQUIRED", domain="agentctl.dev")
    server.script = [
        lambda _m, context: context.abort_with_status(abort(grpc.StatusCode.PERMISSION_DENIED, info))
    ]
    client = client_of()
    client.push(reading())
    assert not client.close()
    refused = client.refusal()
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    assert len(server.streams) == 1


def test_a_stream_cut_for_bad_signals_does_not_end_the_next_one_too(server, client_of):
    def cut(messages, context):
        next(messages), next(messages)
        summary = pb.PushSignalsResponse(high_water_seq=1, rejected=100)
        context.abort_with_status(abort(grpc.StatusCode.INVALID_ARGUMENT, summary))

    server.script = [cut]
    client = client_of()
    client.push(reading())
    while not client.stats().rejected:
        threading.Event().wait(0.005)
    client.push(reading())
    assert client.close()
    assert server.batches(1) == [2]
    assert client.stats().rejected == 100


def test_the_server_says_how_long_to_wait(server, client_of):
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(700)
    server.script = [
        lambda _m, context: context.abort_with_status(abort(grpc.StatusCode.RESOURCE_EXHAUSTED, retry))
    ]
    client = client_of()
    client.push(reading())
    assert client.close()
    assert client.lines == ["lost: no; again in 0.7 s"]
