"""A client that sends whatever it is told to, for what no client of ours would send."""

import queue
import time

import grpc
import pytest
from agentctl_signals import Signal
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agentctl.v1 import telemetry_pb2 as pb

SERVICE = "/agentctl.v1.TelemetryService/"


def batch(*signals: Signal, seq: int = 1) -> pb.PushSignalsRequest:
    return pb.PushSignalsRequest(batch=pb.SignalBatch(seq=seq, signals=signals))


def about(app: str = "good", ahead: float = 0.0, **values) -> Signal:
    """A signal measured so many seconds from now."""
    values = values or {"cpu_utilization": 0.1}
    at = time.time() + ahead
    return Signal(app=app, time=Timestamp(seconds=int(at), nanos=int(at % 1 * 1e9)), **values)


BYE = pb.PushSignalsRequest(bye=pb.Bye(reason="done"))


def code_and_reason(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """What a stream ended with."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for packed in status.details if status else ():
        packed.Unpack(info)
    return error.code(), info.reason


class Stay:
    """One stream of StreamSignals. Messages go out as they are given; both calls have the same ones on the wire."""

    def __init__(self, channel: grpc.Channel, metadata) -> None:
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        call = channel.stream_stream(
            SERVICE + "StreamSignals",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=pb.StreamSignalsResponse.FromString,
        )
        self.call = call(iter(self._messages.get, None), metadata=metadata, timeout=60)

    def send(self, *messages: pb.PushSignalsRequest | bytes) -> None:
        for message in messages:
            self._messages.put(message)

    def answer(self) -> pb.StreamSignalsResponse:
        return next(self.call)

    def acked(self, seq: int) -> pb.StreamSignalsResponse:
        """The first answer that acknowledges `seq`."""
        return next(answer for answer in self.call if answer.acked_seq >= seq)

    def cut(self) -> None:
        """Goes without a word."""
        self.call.cancel()
        self._messages.put(None)

    def fails(self) -> tuple[grpc.StatusCode, str]:
        """Code and reason of the error it ends with."""
        with pytest.raises(grpc.RpcError) as raised:
            for _ in self.call:
                pass
        self._messages.put(None)
        return code_and_reason(raised.value)


class Foreign:
    """A client of one principal."""

    def __init__(self, server, principal: str) -> None:
        self.channel = grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)])
        token = server.token_file(principal).read_text()
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.epoch = 1

    def send(self, *messages: pb.PushSignalsRequest | bytes) -> pb.PushSignalsResponse:
        """One stream of PushSignals with these messages."""
        call = self.channel.stream_unary(
            SERVICE + "PushSignals",
            request_serializer=lambda m: m if isinstance(m, bytes) else m.SerializeToString(),
            response_deserializer=pb.PushSignalsResponse.FromString,
        )
        return call(iter(messages), metadata=self.metadata, timeout=30)

    def stay(self, *messages: pb.PushSignalsRequest | bytes) -> Stay:
        """One stream of StreamSignals that begins with these messages."""
        stream = Stay(self.channel, self.metadata)
        stream.send(*messages)
        return stream

    def fails(self, *messages: pb.PushSignalsRequest | bytes) -> tuple[grpc.StatusCode, str]:
        """Code and reason of the error a stream of them ends with: the same for both calls."""
        with pytest.raises(grpc.RpcError) as raised:
            self.send(*messages)
        got = code_and_reason(raised.value)
        assert self.stay(*messages).fails() == got
        return got

    def hello(
        self, environment: str = "stage", monitor: str = "foreign", epoch: int | None = None, ttl: float | None = None
    ) -> pb.PushSignalsRequest:
        """Hello of a new run of the monitor, unless its number is given."""
        self.epoch += epoch is None
        hello = pb.Hello(monitor_id=monitor, environment=environment, epoch=epoch or self.epoch)
        if ttl is not None:
            hello.default_ttl.FromMilliseconds(round(ttl * 1000))
        return pb.PushSignalsRequest(hello=hello)
