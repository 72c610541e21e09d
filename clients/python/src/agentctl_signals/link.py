"""One stream of PushSignals, from Hello to the summary.

This stream acknowledges at its end: so it is ended now and then (`ack_every`, or when the buffer is half full) and opened again
with the same epoch. A stream that acknowledges as it goes would be another function of this shape, calling
`outbox.acknowledge` for each message it receives; the rest of the client would not change.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from agentctl.v1.telemetry_pb2 import Bye, Hello, PushSignalsRequest, PushSignalsResponse, SignalBatch
from agentctl.v1.telemetry_pb2_grpc import TelemetryServiceStub

from .outbox import Batch, Outbox

# Time for the summary after Bye.
SUMMARY_TIMEOUT = 10.0


@dataclass
class Shared:
    """What the stream and the rest of the client look at, under one lock."""

    lock: threading.Condition
    outbox: Outbox
    # Why the client leaves, once it does.
    leaving: str | None = None
    # When it gives up waiting for that.
    leave_by: float | None = None


def run_stream(
    channel: grpc.Channel, token: str, hello: Hello, shared: Shared, ack_every: float
) -> PushSignalsResponse:
    """Sends what the outbox has until it is time for a summary, and returns that. Raises `grpc.RpcError`."""
    over = False

    def ended(_call: object) -> None:
        nonlocal over
        with shared.lock:
            over = True
            shared.lock.notify_all()

    def requests() -> Iterator[PushSignalsRequest]:
        yield PushSignalsRequest(hello=hello)
        until = time.monotonic() + ack_every
        sent = 0
        while not over:
            batch, reason = _next(shared, sent, until, lambda: over)
            if batch is None:
                if reason is not None:
                    yield PushSignalsRequest(bye=Bye(reason=reason))
                return
            sent = batch.seq
            message = SignalBatch(seq=batch.seq, signals=batch.signals)
            message.sent_time.GetCurrentTime()
            yield PushSignalsRequest(batch=message)

    call = TelemetryServiceStub(channel).PushSignals.future(
        requests(), metadata=(("authorization", f"Bearer {token}"),)
    )
    call.add_done_callback(ended)
    # The server may take no longer than this to say what it has, or it is as good as gone.
    deadline = time.monotonic() + ack_every + SUMMARY_TIMEOUT
    with shared.lock:
        while not over and time.monotonic() < min(deadline, shared.leave_by or deadline):
            shared.lock.wait(0.5)
    if not over:
        call.cancel()
    return call.result()


def _next(shared: Shared, sent: int, until: float, over) -> tuple[Batch | None, str | None]:
    """The next batch; or why to say goodbye; or neither when the stream is over."""
    with shared.lock:
        while not over():
            now = time.monotonic()
            # What was sent and waits for its acknowledgement must not push out what was not.
            due = now >= until or (shared.outbox.crowded and sent > shared.outbox.acked_seq)
            batch = shared.outbox.after(sent, now)
            if due and (batch is None or sent > shared.outbox.acked_seq) and shared.leaving is None:
                return None, "checkpoint"
            if batch is not None:
                return batch, None
            if shared.leaving is not None:
                return None, shared.leaving
            shared.lock.wait(max(until - now, 0.01))
    return None, None
