"""Signals that the server has not acknowledged yet: numbered, bounded, in order.

It knows nothing of streams. Whoever sends asks for the batch behind the last one it sent, and says `acknowledge` whenever it
learns that the server has everything up to a number.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from agentctl.v1.telemetry_pb2 import Signal

# Limits of the server for one batch; the bytes leave room for what surrounds the signals.
BATCH_SIGNALS = 1_000
BATCH_BYTES = 900 * 1024


@dataclass(frozen=True)
class Batch:
    """Signals under one sequence number."""

    seq: int
    signals: tuple[Signal, ...]
    queued_at: float


class Outbox:
    """At most `limit` signals, none older than `max_age` seconds; the oldest give way and are counted."""

    def __init__(self, limit: int, max_age: float) -> None:
        self._limit, self._max_age = limit, max_age
        self._batches: deque[Batch] = deque()
        self.last_seq = 0
        self.acked_seq = 0
        self.pending = 0
        self.dropped = 0

    def add(self, signals: Iterable[Signal], now: float) -> None:
        """Takes signals in, as few batches as the server's limits allow. One that could never be sent is dropped."""
        part: list[Signal] = []
        size = 0
        for signal in signals:
            cost = signal.ByteSize() + 8
            if cost > BATCH_BYTES:
                self.dropped += 1
                continue
            if part and (len(part) == BATCH_SIGNALS or size + cost > BATCH_BYTES):
                self._append(part, now)
                part, size = [], 0
            part.append(signal)
            size += cost
        if part:
            self._append(part, now)

    def _append(self, signals: list[Signal], now: float) -> None:
        self.last_seq += 1
        self._batches.append(Batch(self.last_seq, tuple(signals), now))
        self.pending += len(signals)
        # The newest batch stays, whatever its size: it is what the server should know.
        while self.pending > self._limit and len(self._batches) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        gone = len(self._batches.popleft().signals)
        self.pending -= gone
        self.dropped += gone

    def after(self, seq: int, now: float) -> Batch | None:
        """The first batch with a higher number than `seq`, after dropping what is too old to be believed."""
        while self._batches and now - self._batches[0].queued_at > self._max_age:
            self._drop_oldest()
        return next((batch for batch in self._batches if batch.seq > seq), None)

    def acknowledge(self, seq: int) -> None:
        """The server has everything up to `seq`."""
        seq = min(seq, self.last_seq)
        self.acked_seq = max(self.acked_seq, seq)
        while self._batches and self._batches[0].seq <= seq:
            self.pending -= len(self._batches.popleft().signals)
