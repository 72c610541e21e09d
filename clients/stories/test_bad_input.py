"""What a foreign client can send wrong over a real socket, the answer to each, and a good client beside it that sees none of it."""

import math
import time

import grpc
import pytest
from agentctl_signals import Signal
from conftest import wait_for
from foreign import BYE, Foreign, about, batch
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_status import rpc_status

from agentctl.v1 import telemetry_pb2 as pb

# What is wrong with one signal, and the reason code and field of its rejection.
BAD_SIGNALS = {
    "not a number": (lambda: about(cpu_utilization=math.nan), "NOT_FINITE", "cpu_utilization"),
    "infinity": (lambda: about(latency_p99_seconds=math.inf), "NOT_FINITE", "latency_p99_seconds"),
    "minus infinity": (lambda: about(latency_p50_seconds=-math.inf), "NOT_FINITE", "latency_p50_seconds"),
    "negative": (lambda: about(memory_utilization=-0.1), "NEGATIVE", "memory_utilization"),
    "more than all": (lambda: about(error_ratio=1.5), "OUT_OF_RANGE", "error_ratio"),
    "from the future": (lambda: about(ahead=3600), "CLOCK_SKEW", "time"),
    "ancient": (lambda: about(ahead=-3600), "STALE", "time"),
    "before 1970": (lambda: about(ahead=-4e9), "STALE", "time"),
    "without a time": (lambda: Signal(app="good", cpu_utilization=0.1), "EMPTY", "time"),
    "saying nothing": (lambda: Signal(app="good", time=Timestamp(seconds=int(time.time()))), "EMPTY", "signal"),
    "an unknown app": (lambda: about("nobody"), "UNKNOWN_APP", "app"),
    "an app of somebody else": (lambda: about("another"), "UNKNOWN_APP", "app"),
    "no instance": (lambda: about(instance="-1", cpu_utilization=0.1), "OUT_OF_RANGE", "instance"),
    "too many conditions": (
        lambda: about(conditions={f"c{n}": True for n in range(17)}), "TOO_MANY", "conditions",
    ),
    "a condition with escapes": (lambda: about(conditions={"\x1b[31m": True}), "INVALID_NAME", "conditions"),
}  # fmt: skip


def test_a_bad_signal_is_rejected_alone_with_its_reason_and_field(beside):
    _, foreign = beside
    for what, (make, reason, field) in BAD_SIGNALS.items():
        summary = foreign.send(foreign.hello(), batch(about(), make(), about()), BYE)
        assert (summary.accepted, summary.rejected) == (2, 1), what
        [told] = [r for r in summary.rejections if r.reason == reason]
        assert (told.seq, told.index, told.field.split(".")[0]) == (1, 1, field), f"{what}: {told}"
        assert told.rule and "\x1b" not in told.value, what


def test_an_app_of_somebody_else_is_answered_like_one_that_does_not_exist(beside):
    _, foreign = beside
    summary = foreign.send(foreign.hello(), batch(about("nobody"), about("another")), BYE)
    nobody, another = summary.rejections
    assert (nobody.reason, nobody.field, nobody.rule) == (another.reason, another.field, another.rule)


def test_a_sequence_that_goes_back_is_counted_and_not_applied(beside):
    _, foreign = beside
    steps = [batch(about(), seq=seq) for seq in (1, 2, 1, 2, 3)]
    summary = foreign.send(foreign.hello(), *steps, BYE)
    assert (summary.accepted, summary.duplicates, summary.missed, summary.high_water_seq) == (3, 2, 0, 3)
    again = foreign.send(foreign.hello(epoch=foreign.epoch), batch(about(), seq=3), batch(about(), seq=6), BYE)
    assert (again.accepted, again.duplicates, again.missed, again.high_water_seq) == (1, 1, 2, 6), "over a reconnect too"


def test_whole_streams_that_are_wrong_end_with_a_status_that_says_why(beside):
    server, foreign = beside
    invalid, hello = grpc.StatusCode.INVALID_ARGUMENT, foreign.hello
    deep = b"\x12" + b"\x0b" * 20_000 + b"\x0c" * 20_000
    nested = pb.PushSignalsRequest(batch=pb.SignalBatch(seq=1)).SerializeToString() + b"\x9b\x06" * 50_000
    cases = {
        "another environment": ([hello("prod")], {(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")}),
        "no hello": ([batch(about())], {(invalid, "HELLO_MISSING")}),
        "two of them": ([hello(), hello()], {(invalid, "HELLO_REPEATED")}),
        "no epoch": ([pb.PushSignalsRequest(hello=pb.Hello(monitor_id="m", environment="stage"))], None),
        "a name with an @": ([hello(monitor="edge@local")], None),
        "an empty message": ([hello(), pb.PushSignalsRequest()], {(invalid, "MESSAGE_UNKNOWN")}),
        "1001 signals": ([hello(), batch(*[about()] * 1001)], {(invalid, "BATCH_TOO_LARGE")}),
        "more than 1 MiB": ([hello(), batch(about("x" * 2_000_000))], {(grpc.StatusCode.OUT_OF_RANGE, "")}),
        "100,000 labels": (
            [hello(), batch(about(conditions={f"label-{n:06}": True for n in range(100_000)}))],
            {(grpc.StatusCode.OUT_OF_RANGE, "")},
        ),
        "truncated": ([hello(), batch(about()).SerializeToString()[:-3]], {(grpc.StatusCode.INTERNAL, "")}),
        "noise": ([hello(), bytes(range(256))], {(grpc.StatusCode.INTERNAL, "")}),
        "deeply nested": ([hello(), deep], {(grpc.StatusCode.INTERNAL, "")}),
        "deeply nested and unknown": ([hello(), nested], {(grpc.StatusCode.INTERNAL, "")}),
    }
    for what, (messages, expected) in cases.items():
        got = foreign.fails(*messages)
        assert got in expected if expected else got[0] == invalid, f"{what}: {got}"
    summary = foreign.send(hello(), batch(about()), BYE)
    assert summary.accepted == 1, "and the foreign client itself is welcome again"
    wait_for("no stream is left behind", lambda: server.status()["monitors"] <= 1)


def test_a_client_that_only_sends_rubbish_is_cut_and_told_what_became_of_it(beside):
    _, foreign = beside
    with pytest.raises(grpc.RpcError) as raised:
        foreign.send(foreign.hello(), batch(*[about("nobody")] * 150), BYE)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    summary = pb.PushSignalsResponse()
    [found] = [d for d in rpc_status.from_call(raised.value).details if d.Unpack(summary)]
    assert (summary.rejected, summary.high_water_seq) == (150, 1), found


def test_a_token_that_is_not_a_monitors_pushes_nothing(beside):
    server, foreign = beside
    for principal, code in [("local", grpc.StatusCode.PERMISSION_DENIED), (None, grpc.StatusCode.UNAUTHENTICATED)]:
        stranger = Foreign(server, principal or "local")
        if principal is None:
            stranger.metadata = (("authorization", f"Bearer agt_{'0' * 64}"),)
        assert stranger.fails(stranger.hello(), batch(about()))[0] == code
    assert foreign.send(foreign.hello(), batch(about()), BYE).accepted == 1
