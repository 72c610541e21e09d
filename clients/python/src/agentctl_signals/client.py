"""The client: signals go in without waiting, a thread of its own takes them to the server."""

import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agentctl.v1.telemetry_pb2 import (
    Bye,
    Hello,
    PushSignalsRequest,
    PushSignalsResponse,
    Signal,
    SignalBatch,
    StreamSignalsResponse,
)
from agentctl.v1.telemetry_pb2_grpc import TelemetryServiceStub

from .backoff import Backoff
from .link import Link, Lost, Shared
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

# What is counted of a stream.
COUNTS = ("accepted", "duplicates", "rejected", "missed")


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
    # Streams that ended without an answered goodbye.
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
        self._hello = _hello(options)
        self._backoff = Backoff()
        # What the streams that are over counted, and what the present one has counted so far.
        self._past, self._told = StreamSignalsResponse(), StreamSignalsResponse()
        self._lost = 0
        self._refused: Refused | None = None
        self._thread = threading.Thread(target=self._run, name="agentctl-signals", daemon=True)
        self._thread.start()

    def push(self, signals: Signal | Iterable[Signal]) -> None:
        """Queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere."""
        batch = [signals] if isinstance(signals, Signal) else list(signals)
        _timed(batch)
        with self._shared.lock:
            self._shared.outbox.add(batch, time.monotonic())
            self._shared.lock.notify_all()

    def stats(self) -> Stats:
        """What became of the signals so far."""
        with self._shared.lock:
            out, past, told = self._shared.outbox, self._past, self._told
            counts = {name: getattr(past, name) + getattr(told, name) for name in COUNTS}
            return Stats(out.last_seq, out.acked_seq, out.pending, out.dropped, **counts, lost_streams=self._lost)

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
        channel = None
        while True:
            channel = channel or self._options.target.channel()
            try:
                Link(self._hello, self._shared, self._take).run(channel, self._options.token)
            except (grpc.RpcError, grpc.FutureCancelledError, Lost) as error:
                channel.close()
                channel = None
                wait = self._failed(error)
            else:
                # What was pushed behind the goodbye goes into another stream.
                with self._shared.lock:
                    done = self._shared.leaving is not None and not self._shared.outbox.pending
                wait = None if done else 0.0
            self._count()
            if wait is None or not self._pause(wait):
                break
        if channel:
            channel.close()

    def _take(self, answer: StreamSignalsResponse) -> None:
        """Notes an answer. It says what became of the whole stream, so it takes the place of the one before."""
        with self._shared.lock:
            acked = self._shared.outbox.acked_seq
            self._shared.outbox.acknowledge(answer.acked_seq)
            if self._shared.outbox.acked_seq > acked:
                self._backoff.reset()
            rejected = answer.rejected - self._told.rejected
            self._told = answer
        for rejection in answer.rejections[:3]:
            self._options.log(
                f"rejected: {rejection.field} {rejection.rule}, got `{rejection.value}` ({rejection.reason})"
            )
        if rejected > 3:
            self._options.log(f"rejected: {rejected} signals in all")

    def _count(self) -> None:
        """Adds a stream that is over to those before it."""
        with self._shared.lock:
            for name in COUNTS:
                setattr(self._past, name, getattr(self._past, name) + getattr(self._told, name))
            self._told = StreamSignalsResponse()

    def _failed(self, error: Exception) -> float | None:
        """Notes the loss of a stream. None when it is final, otherwise the wait before the next one."""
        code, message, details = _explain(error)
        with self._shared.lock:
            self._lost += 1
        summary = details.get(PushSignalsResponse)
        if summary is not None:
            # Cut for its bad signals: they were judged, so sending them again would end the next stream too.
            counts = {name: getattr(summary, name) for name in COUNTS}
            self._take(StreamSignalsResponse(acked_seq=summary.high_water_seq, **counts))
        elif code in PERMANENT:
            info = details.get(error_details_pb2.ErrorInfo)
            refused = Refused(code, message, info.reason if info else "")
            self._options.log(f"refused: {refused}")
            with self._shared.lock:
                self._refused = refused
            return None
        wait = self._backoff.next_wait()
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


def push_once(
    options: Options, signals: Signal | Iterable[Signal], timeout: float = 10.0
) -> PushSignalsResponse:
    """Pushes signals over one stream of PushSignals and returns what became of them: for a script that does not stay.

    It is tried once; errors are those of gRPC.
    """
    batch = [signals] if isinstance(signals, Signal) else list(signals)
    _timed(batch)
    outbox = Outbox(max(len(batch), 1), timeout)
    outbox.add(batch, 0.0)
    messages = [PushSignalsRequest(hello=_hello(options))]
    while found := outbox.after(len(messages) - 1, 0.0):
        messages.append(PushSignalsRequest(batch=SignalBatch(seq=found.seq, signals=found.signals)))
    messages.append(PushSignalsRequest(bye=Bye(reason="done")))
    metadata = (("authorization", f"Bearer {options.token}"),)
    with options.target.channel() as channel:
        return TelemetryServiceStub(channel).PushSignals(iter(messages), metadata=metadata, timeout=timeout)


def _hello(options: Options) -> Hello:
    """Who pushes. Each call is another run of the monitor."""
    hello = Hello(
        monitor_id=options.monitor_id,
        environment=options.environment,
        # Zero is the one number that says nothing.
        epoch=secrets.randbits(64) or 1,
    )
    if options.ttl is not None:
        hello.default_ttl.FromMilliseconds(round(options.ttl * 1000))
    return hello


def _timed(signals: list[Signal]) -> None:
    """A signal without a time was measured now."""
    for signal in signals:
        if not signal.HasField("time"):
            signal.time.GetCurrentTime()


def _explain(error: Exception) -> tuple[grpc.StatusCode, str, dict]:
    """Code, message and details of what went wrong."""
    if not isinstance(error, grpc.Call):
        return grpc.StatusCode.CANCELLED, str(error) or "no answer from the server", {}
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
