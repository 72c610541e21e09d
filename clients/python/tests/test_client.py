import threading

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from agentctl.v1 import telemetry_pb2 as pb
from agentctl_signals import Options, Signal, SignalClient, Target, push_once


def options_of(server, **more):
    return Options(Target.parse(f"127.0.0.1:{server.port}"), "agt_x", "stage", "edge", **more)


@pytest.fixture
def client_of(server):
    def make(**more):
        lines: list[str] = []
        client = SignalClient(options_of(server, log=lines.append, **more))
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
        next(messages)
        yield pb.StreamSignalsResponse()
        next(messages), next(messages)
        # It forgets them, as a server does that is started again.
        server.streams[0] = server.streams[0][:1]
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.script = [dies_after_two]
    client = client_of()
    for _ in range(4):
        client.push(reading())
    assert client.close()
    assert server.batches(1) == [1, 2, 3, 4], "nothing was acknowledged, so all of it"
    assert server.streams[0][0].hello.epoch == server.streams[1][0].hello.epoch
    stats = client.stats()
    assert (stats.acked_seq, stats.pending, stats.dropped, stats.lost_streams) == (4, 0, 0, 1)


def test_what_the_server_has_is_not_sent_again(server, client_of):
    def dies_unheard(messages, context):
        next(messages)
        yield pb.StreamSignalsResponse()
        next(messages), next(messages)
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    server.script = [dies_unheard]
    client = client_of()
    for _ in range(4):
        client.push(reading())
    assert client.close()
    assert server.batches(0) + server.batches(1) == [1, 2, 3, 4], "the first answer is the cursor"


def test_nothing_is_sent_before_the_server_has_said_where_to_go_on(server, client_of):
    def slow(messages, context):
        next(messages)
        while client.stats().last_seq < 3:
            threading.Event().wait(0.005)
        yield pb.StreamSignalsResponse(acked_seq=2)
        yield from server.answers(messages)

    server.script = [slow]
    client = client_of()
    for _ in range(3):
        client.push(reading())
    assert client.close()
    assert server.batches(0) == [3], "the server said that it has two of them"


def test_answers_empty_the_buffer_as_the_stream_goes(server, client_of):
    client = client_of(buffer=4)
    for _ in range(12):
        client.push(reading())
        while client.stats().pending > 2:
            threading.Event().wait(0.005)
    assert client.close()
    assert (len(server.streams), server.batches(0)) == (1, list(range(1, 13)))
    assert client.stats().dropped == 0


def test_counts_are_of_all_streams_and_of_each_answer_once(server, client_of):
    def counts(messages, context):
        next(messages)
        yield pb.StreamSignalsResponse()
        for seq in (1, 2):
            next(messages)
            yield pb.StreamSignalsResponse(acked_seq=seq, accepted=seq, rejected=1)
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    def more(messages, _context):
        for message in messages:
            yield pb.StreamSignalsResponse(acked_seq=3, accepted=1, closed=message.HasField("bye"))

    server.script = [counts, more]
    client = client_of()
    for _ in range(3):
        client.push(reading())
    assert client.close()
    stats = client.stats()
    assert (stats.accepted, stats.rejected, stats.lost_streams) == (3, 1, 1)


def test_an_end_without_an_answer_to_the_goodbye_is_a_loss(server, client_of):
    def silent(messages, _context):
        next(messages)
        yield pb.StreamSignalsResponse()

    server.script = [silent]
    client = client_of()
    client.push(reading())
    assert client.close()
    assert client.stats().lost_streams == 1
    assert client.lines[0].startswith("lost: the stream ended without a goodbye; again in ")


def test_a_script_pushes_once_and_is_told_what_became_of_it(server):
    summary = push_once(options_of(server, ttl=3.0), [reading() for _ in range(1_001)])
    assert summary.high_water_seq == 2, "as few batches as the limits of the server allow"
    [hello, first, second, bye] = server.streams[0]
    assert (hello.hello.monitor_id, hello.hello.default_ttl.seconds, bye.HasField("bye")) == ("edge", 3, True)
    assert [len(m.batch.signals) for m in (first, second)] == [1_000, 1]
    assert first.batch.signals[0].HasField("time")
    with pytest.raises(grpc.RpcError):
        push_once(Options(Target.parse("127.0.0.1:1"), "agt_x", "stage", "edge"), reading())


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
        next(messages)
        yield pb.StreamSignalsResponse()
        next(messages)
        yield pb.StreamSignalsResponse(acked_seq=1, rejected=60)
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
