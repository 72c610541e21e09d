"""The client: signals go in without waiting, a thread of its own takes them to the server."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agentctl.v1.telemetry_pb2 import Hello, PushSignalsResponse, Signal

from .backoff import Backoff
from .link import Shared, run_stream
from .outbox import Outbox
from .target import Target

# What another attempt would not change.
PERMANENT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.OUT_OF_RANGE,
}


@dataclass(frozen=True)
class Options:
    """Who pushes where. Times are seconds."""

    target: Target
    token: str = field(repr=False)
    environment: str
    # Stable across restarts of the monitor.
    monitor_id: str
    # How long a signal counts as fresh; None: as the server has it. A shorter life makes the agent less sure of it.
    ttl: float | None = None
    # Signals kept while they are not acknowledged; the oldest give way.
    buffer: int = 10_000
    # The server takes nothing older than five minutes.
    max_age: float = 240.0
    # How often the server is asked what it has.
    ack_every: float = 15.0
    # Told in one line what happens to the connection and to the signals.
    log: Callable[[str], None] = lambda _line: None


@dataclass(frozen=True)
class Stats:
    """What became of the signals so far."""

    # Batches made, and the highest of them the server has acknowledged.
    last_seq: int
    acked_seq: int
    # Signals that wait, and that gave way to newer ones.
    pending: int
    dropped: int
    # As the server counted them.
    accepted: int
    duplicates: int
    rejected: int
    missed: int
    # Streams that ended without a summary.
    lost_streams: int


class Refused(Exception):
    """The server said something another attempt would not change."""

    def __init__(self, code: grpc.StatusCode, message: str, reason: str) -> None:
        super().__init__(f"{message} ({reason or code.name})")
        self.code, self.reason = code, reason


class SignalClient:
    """Pushes signals to one agentd. Use it as a context manager, or call `close`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._shared = Shared(threading.Condition(), Outbox(options.buffer, options.max_age))
        # Zero is the one number that says nothing.
        self._hello = Hello(
            monitor_id=options.monitor_id,
            environment=options.environment,
            epoch=secrets.randbits(64) or 1,
        )
        if options.ttl is not None:
            self._hello.default_ttl.FromMilliseconds(round(options.ttl * 1000))
        self._sum = PushSignalsResponse()
        self._lost = 0
        self._refused: Refused | None = None
        self._thread = threading.Thread(target=self._run, name="agentctl-signals", daemon=True)
        self._thread.start()

    def push(self, signals: Signal | Iterable[Signal]) -> None:
        """Queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere."""
        batch = [signals] if isinstance(signals, Signal) else list(signals)
        for signal in batch:
            if not signal.HasField("time"):
                signal.time.GetCurrentTime()
        with self._shared.lock:
            self._shared.outbox.add(batch, time.monotonic())
            self._shared.lock.notify_all()

    def stats(self) -> Stats:
        """What became of the signals so far."""
        with self._shared.lock:
            out, total = self._shared.outbox, self._sum
            return Stats(
                out.last_seq, out.acked_seq, out.pending, out.dropped,
                total.accepted, total.duplicates, total.rejected, total.missed, self._lost,
            )  # fmt: skip

    def refusal(self) -> Refused | None:
        """What ended the client, if the server refused it."""
        with self._shared.lock:
            return self._refused

    def close(self, reason: str = "", timeout: float = 5.0) -> bool:
        """Sends what waits, says goodbye and ends. True when the server has everything that was not dropped."""
        with self._shared.lock:
            if self._shared.leaving is None:
                self._shared.leaving, self._shared.leave_by = reason, time.monotonic() + timeout
            self._shared.lock.notify_all()
        self._thread.join(timeout + 1.0)
        return not self._thread.is_alive() and not self.stats().pending and not self._refused

    def __enter__(self) -> "SignalClient":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _run(self) -> None:
        backoff = Backoff()
        channel = None
        while True:
            channel = channel or self._options.target.channel()
            try:
                summary = run_stream(
                    channel, self._options.token, self._hello, self._shared, self._options.ack_every
                )
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                channel.close()
                channel = None
                wait = self._failed(error, backoff)
            else:
                backoff.reset()
                wait = self._take(summary)
            if wait is None or not self._pause(wait):
                break
        if channel:
            channel.close()

    def _take(self, summary: PushSignalsResponse) -> float | None:
        """Notes a summary. None when nothing is left to do, otherwise the wait before the next stream."""
        with self._shared.lock:
            out = self._shared.outbox
            out.acknowledge(summary.high_water_seq)
            for name in ("accepted", "duplicates", "rejected", "missed"):
                setattr(self._sum, name, getattr(self._sum, name) + getattr(summary, name))
            done = self._shared.leaving is not None and not out.pending
        for rejection in summary.rejections[:3]:
            self._options.log(
                f"rejected: {rejection.field} {rejection.rule}, got `{rejection.value}` ({rejection.reason})"
            )
        if summary.rejected > 3:
            self._options.log(f"rejected: {summary.rejected} signals in all")
        return None if done else 0.0

    def _failed(self, error: Exception, backoff: Backoff) -> float | None:
        """Notes the loss of a stream. None when it is final, otherwise the wait before the next one."""
        code, message, details = _explain(error)
        with self._shared.lock:
            self._lost += 1
        summary = details.get(PushSignalsResponse)
        if summary is not None:
            # Cut for its bad signals: they were judged, so sending them again would end the next stream too.
            self._take(summary)
        elif code in PERMANENT:
            info = details.get(error_details_pb2.ErrorInfo)
            refused = Refused(code, message, info.reason if info else "")
            self._options.log(f"refused: {refused}")
            with self._shared.lock:
                self._refused = refused
            return None
        wait = backoff.next_wait()
        retry = details.get(error_details_pb2.RetryInfo)
        if retry:
            wait = max(wait, retry.retry_delay.ToTimedelta().total_seconds())
        self._options.log(f"lost: {message}; again in {wait:.1f} s")
        return wait

    def _pause(self, seconds: float) -> bool:
        """Waits; false when the time to leave is over."""
        end = time.monotonic() + seconds
        with self._shared.lock:
            while True:
                now, leave_by = time.monotonic(), self._shared.leave_by
                if leave_by is not None and now >= leave_by:
                    return False
                if now >= end:
                    return True
                self._shared.lock.wait(min(end, leave_by or end) - now)


def _explain(error: Exception) -> tuple[grpc.StatusCode, str, dict]:
    """Code, message and details of what went wrong."""
    if not isinstance(error, grpc.Call):
        return grpc.StatusCode.CANCELLED, "no answer from the server", {}
    details: dict = {}
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, PushSignalsResponse)
    for packed in status.details if status else ():
        for kind in kinds:
            if packed.Is(kind.DESCRIPTOR):
                details[kind] = kind.FromString(packed.value)
    return error.code(), error.details() or error.code().name, details
