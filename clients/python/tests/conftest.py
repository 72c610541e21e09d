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
        self.streams: list[list[pb.StreamSignalsRequest | pb.PushSignalsRequest]] = []
        self.tokens: list[str] = []

    def _open(self, request_iterator, context):
        self.tokens.append(dict(context.invocation_metadata()).get("authorization", ""))
        stream: list = []
        self.streams.append(stream)
        return (stream.append(message) or message for message in request_iterator)

    def StreamSignals(self, request_iterator, context):
        messages = self._open(request_iterator, context)
        if self.script:
            yield from self.script.pop(0)(messages, context) or ()
            return
        yield from self.answers(messages)

    def PushSignals(self, request_iterator, context):
        for _ in self._open(request_iterator, context):
            pass
        return pb.PushSignalsResponse(high_water_seq=self.highest(), accepted=len(self.batches(-1)))

    def answers(self, messages):
        """As the real one: where to go on, what it has, and a last word."""
        for message in messages:
            yield pb.StreamSignalsResponse(acked_seq=self.highest(), closed=message.HasField("bye"))

    def batches(self, stream: int) -> list[int]:
        """Sequence numbers of one stream."""
        return [m.batch.seq for m in self.streams[stream] if m.HasField("batch")]

    def highest(self) -> int:
        """The highest number ever seen."""
        return max((m.batch.seq for s in self.streams for m in s if m.HasField("batch")), default=0)


@pytest.fixture
def server():
    servicer = Server()
    running = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_TelemetryServiceServicer_to_server(servicer, running)
    servicer.port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield servicer
    running.stop(None)
