"""A telemetry server in this process that does what a test tells it, for what a real one cannot be asked to do."""

from concurrent import futures

import grpc
import pytest

from agentctl.v1 import telemetry_pb2 as pb
from agentctl.v1 import telemetry_pb2_grpc as rpc


class Server(rpc.TelemetryServiceServicer):
    """Runs the next of `script` for each stream: a function of the messages and the context. Then it takes everything."""

    def __init__(self) -> None:
        self.script: list = []
        self.streams: list[list[pb.PushSignalsRequest]] = []
        self.tokens: list[str] = []

    def PushSignals(self, request_iterator, context):
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        stream: list = []
        self.streams.append(stream)
        messages = (stream.append(message) or message for message in request_iterator)
        if self.script:
            return self.script.pop(0)(messages, context)
        for _ in messages:
            pass
        return self.summary()

    def batches(self, stream: int) -> list[int]:
        """Sequence numbers of one stream."""
        return [m.batch.seq for m in self.streams[stream] if m.HasField("batch")]

    def summary(self) -> pb.PushSignalsResponse:
        """As the real one: the highest number ever seen."""
        seen = [m.batch.seq for s in self.streams for m in s if m.HasField("batch")]
        return pb.PushSignalsResponse(high_water_seq=max(seen, default=0))


@pytest.fixture
def server():
    servicer = Server()
    running = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_TelemetryServiceServicer_to_server(servicer, running)
    servicer.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield servicer
    running.stop(None)
