"""One stream of StreamSignals, from Hello to the goodbye.

The first answer is the cursor: what the server has heard of this run of the monitor is not sent again, and everything behind it is,
under the same numbers. From then on answers acknowledge as the stream goes. A stream that ends in any other way than by an answered
goodbye is lost, and another one goes on where the server says.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from agentctl.v1.telemetry_pb2 import Bye, Hello, SignalBatch, StreamSignalsRequest, StreamSignalsResponse
from agentctl.v1.telemetry_pb2_grpc import TelemetryServiceStub

from .outbox import Batch, Outbox

# The server answers at least every 10 s: one that says nothing for three times as long is as good as gone.
SILENCE = 30.0


@dataclass
class Shared:
    """What the stream and the rest of the client look at, under one lock."""

    lock: threading.Condition
    outbox: Outbox
    # Why the client leaves, once it does.
    leaving: str | None = None
    # When it gives up waiting for that.
    leave_by: float | None = None


class Lost(Exception):
    """The stream ended, and nobody said why."""


class Link:
    """One stream. Answers are handed to `take` as they come."""

    def __init__(self, hello: Hello, shared: Shared, take: Callable[[StreamSignalsResponse], None]) -> None:
        self._hello, self._shared, self._take = hello, shared, take
        self._heard = time.monotonic()
        # The number it goes on behind; none before the first answer.
        self._sent: int | None = None
        self._over = self._closed = False
        self._failure: Exception | None = None

    def run(self, channel: grpc.Channel, token: str) -> None:
        """Sends what the outbox has until the goodbye is answered. Raises `grpc.RpcError` or `Lost`."""
        call = TelemetryServiceStub(channel).StreamSignals(
            self._requests(), metadata=(("authorization", f"Bearer {token}"),)
        )
        # A thread of its own, since waiting for an answer cannot be given up.
        threading.Thread(target=self._read, args=(call,), name="agentctl-answers", daemon=True).start()
        with self._shared.lock:
            while not self._over and time.monotonic() < self._patience():
                self._shared.lock.wait(0.5)
            over, self._over = self._over, True
            self._shared.lock.notify_all()
        if not over:
            call.cancel()
            raise Lost("no answer from the server")
        if self._failure or not self._closed:
            raise self._failure or Lost("the stream ended without a goodbye")

    def _patience(self) -> float:
        """When it gives up waiting for an answer."""
        silence = self._heard + SILENCE
        return min(silence, self._shared.leave_by or silence)

    def _read(self, call: grpc.Call) -> None:
        try:
            for answer in call:
                with self._shared.lock:
                    if self._over:
                        return
                    self._heard, self._closed = time.monotonic(), answer.closed
                    self._take(answer)
                    if self._sent is None:
                        self._sent = answer.acked_seq
                    self._shared.lock.notify_all()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            self._failure = error
        finally:
            with self._shared.lock:
                self._over = True
                self._shared.lock.notify_all()

    def _requests(self) -> Iterator[StreamSignalsRequest]:
        yield StreamSignalsRequest(hello=self._hello)
        while found := self._next():
            if isinstance(found, Bye):
                yield StreamSignalsRequest(bye=found)
                return
            message = SignalBatch(seq=found.seq, signals=found.signals)
            message.sent_time.GetCurrentTime()
            yield StreamSignalsRequest(batch=message)

    def _next(self) -> Batch | Bye | None:
        """The next batch, or the goodbye behind the last one; nothing when the stream is over."""
        with self._shared.lock:
            while not self._over:
                if self._sent is not None:
                    if batch := self._shared.outbox.after(self._sent, time.monotonic()):
                        self._sent = batch.seq
                        return batch
                    if self._shared.leaving is not None:
                        return Bye(reason=self._shared.leaving)
                self._shared.lock.wait(1.0)
        return None
