"""What a foreign client can do to the transport, frame by frame, and a good client beside it that sees none of it."""

import gzip
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import DEADLINE, wait_for
from foreign import BYE, about, batch
from hpack import Decoder

from agentctl.v1 import telemetry_pb2 as pb

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
FRAME_MAX = 16_384
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PUSH = "/agentctl.v1.TelemetryService/PushSignals"
STATUS = "/agentctl.v1.AgentService/GetStatus"
EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
WATCH = "/agentctl.v1.DecisionService/WatchDecisions"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header as it is: not compressed, not remembered."""

    def text(part: bytes) -> bytes:
        size = len(part)
        if size < 127:
            return bytes([size]) + part
        rest, more = size - 127, b""
        while rest >= 128:
            more, rest = more + bytes([rest % 128 + 128]), rest // 128
        return b"\x7f" + more + bytes([rest]) + part

    return b"\x00" + text(name.encode()) + text(value.encode())


def resident(server) -> int:
    """Bytes of the server that are in memory."""
    return int(open(f"/proc/{server.process.pid}/statm").read().split()[1]) * resource.getpagesize()


class Raw:
    """One connection, and whatever frames are put on it."""

    def __init__(self, server, principal: str = "local", *, opens: bool = True) -> None:
        host, port = server.address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=DEADLINE)
        self._token = server.token_file(principal).read_text()
        self._decoder, self._stream, self._buffer = Decoder(), -1, b""
        if opens:
            self.send(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, *frames: bytes) -> bool:
        """False when the server has closed."""
        try:
            self.socket.sendall(b"".join(frames))
            return True
        except (BrokenPipeError, ConnectionResetError):
            return False

    def headers(self, path: str = STATUS, **more: str) -> bytes:
        """What opens a good call, but for what `more` says otherwise."""
        found = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "content-type": "application/grpc",
            "te": "trailers", "authorization": f"Bearer {self._token}",
        }  # fmt: skip
        found |= {name.replace("__", ":").replace("_", "-"): value for name, value in more.items()}
        return b"".join(literal(name, value) for name, value in found.items())

    def open(self, path: str = STATUS, end: bool = False, **more: str) -> int:
        """Opens a stream."""
        self._stream += 2
        flags = END_HEADERS | (END_STREAM if end else 0)
        self.send(frame(HEADERS, flags, self._stream, self.headers(path, **more)))
        return self._stream

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of what the server sends, until it closes."""
        while True:
            while len(have := self._buffer) >= 9 and len(have) >= 9 + (size := int.from_bytes(have[:3])):
                self._buffer = have[9 + size :]
                yield have[3], have[4], int.from_bytes(have[5:9]), have[9 : 9 + size]
            try:
                more = self.socket.recv(65_536)
            except ConnectionResetError:
                return
            if not more:
                return
            self._buffer += more

    def answer(self, stream: int) -> dict[str, str]:
        """All headers and trailers of the answer on a stream."""
        found: dict[str, str] = {}
        for kind, flags, at, payload in self.frames():
            if kind == HEADERS:
                told = dict(self._decoder.decode(payload))
                if at == stream:
                    found |= told
            if at == stream and (flags & END_STREAM and kind in (DATA, HEADERS) or kind == RST):
                return found
            if kind == SETTINGS and not flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
        return found

    def statuses(self) -> Iterator[str]:
        """The status of each stream that ends."""
        for kind, _, _, payload in self.frames():
            if kind == HEADERS and (status := dict(self._decoder.decode(payload)).get("grpc-status")):
                yield status

    def goaway(self) -> bool:
        """Waits until the server has closed; whether it said why."""
        return any(kind == GOAWAY for kind, *_ in self.frames())


def call(server, *messages: bytes, path: str = STATUS, **more: str) -> dict[str, str]:
    """What is answered to these bytes."""
    raw = Raw(server, "foreign" if path in (PUSH, EXPORT) else "local")
    stream = raw.open(path, **more)
    body = b"".join(messages)
    while len(body) > FRAME_MAX:
        raw.send(frame(DATA, 0, stream, body[:FRAME_MAX]))
        body = body[FRAME_MAX:]
    raw.send(frame(DATA, END_STREAM, stream, body))
    return raw.answer(stream)


def packed(size: int) -> bytes:
    """A message of so many zeros, packed."""
    body = gzip.compress(bytes(size), 9)
    return b"\x01" + struct.pack(">I", len(body)) + body


EMPTY = b"\x00" + struct.pack(">I", 0)
INVALID, DEADLINE_EXCEEDED, EXHAUSTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL = "3", "4", "8", "11", "12", "13"


def test_each_wrong_request_has_its_answer_and_the_connection_is_no_worse_for_it(beside):
    server, _ = beside
    assert call(server, EMPTY)["grpc-status"] == "0"
    cases = {
        "GET": (lambda: call(server, __method="GET"), {":status": "405"}),
        "a browser's form": (lambda: call(server, EMPTY, content_type="text/plain"), {":status": "415"}),
        "no number as its time": (lambda: call(server, EMPTY, grpc_timeout="soon"), {"grpc-status": INVALID}),
        "a unit nobody knows": (lambda: call(server, EMPTY, grpc_timeout="5x"), {"grpc-status": INVALID}),
        "no time at all": (lambda: call(server, EMPTY, grpc_timeout="0n"), {"grpc-status": DEADLINE_EXCEEDED}),
        "100 MiB, so it says": (
            lambda: call(server, b"\x00" + struct.pack(">I", 100 << 20), path=PUSH), {"grpc-status": OUT_OF_RANGE},
        ),
        "50 MiB that are 50 KiB packed": (
            lambda: call(server, packed(50 << 20), grpc_encoding="gzip", path=EXPORT), {"grpc-status": EXHAUSTED},
        ),
        "a flag nobody knows": (lambda: call(server, b"\x07" + EMPTY[1:], path=PUSH), {"grpc-status": INTERNAL}),
        "packed, and does not say how": (lambda: call(server, b"\x01" + EMPTY[1:], path=PUSH), {"grpc-status": INTERNAL}),
        "packed in a way nobody knows": (
            lambda: call(server, EMPTY, grpc_encoding="br", path=PUSH), {"grpc-status": UNIMPLEMENTED},
        ),
        "no such method": (lambda: call(server, EMPTY, path="/agentctl.v1.AgentService/Shell"), None),
    }  # fmt: skip
    for what, (send, expected) in cases.items():
        got = send()
        if expected is None:
            assert got["grpc-status"] in (UNIMPLEMENTED, "7"), f"{what}: {got}"
        else:
            assert expected.items() <= got.items(), f"{what}: {got}"


def test_a_deadline_ends_a_stream_of_answers_too(beside):
    server, _ = beside
    began = time.monotonic()
    got = call(server, EMPTY, path=WATCH, grpc_timeout="300m")
    assert got["grpc-status"] == DEADLINE_EXCEEDED, got
    assert time.monotonic() - began >= 0.3


def test_who_opens_a_connection_and_says_nothing_is_let_go(beside):
    server, _ = beside
    silent = [Raw(server, opens=False) for _ in range(50)]
    half = Raw(server, opens=False)
    half.send(PREFACE[:12])
    for raw in [*silent, half]:
        # Whatever it says last: it closes, where it would have waited for ever.
        for _ in raw.frames():
            pass


def flood(raw: Raw, what: bytes, times: int) -> None:
    for _ in range(times):
        if not raw.send(what):
            return


def test_floods_end_their_own_connection(beside):
    server, _ = beside

    def headers_without_end(raw: Raw) -> None:
        raw.send(frame(HEADERS, 0, 1, raw.headers()))
        flood(raw, frame(CONTINUATION, 0, 1, literal("x", "y" * 1_000)), 2_000)

    def nothing_more_and_no_end(raw: Raw) -> None:
        raw.send(frame(HEADERS, 0, 1, raw.headers()))
        flood(raw, frame(CONTINUATION, 0, 1), 2_000)

    def rapid_reset(raw: Raw) -> None:
        for _ in range(2_000):
            stream = raw.open()
            raw.send(frame(RST, 0, stream, struct.pack(">I", 8)))

    def made_you_reset(raw: Raw) -> None:
        for _ in range(2_000):
            stream = raw.open()
            # More window than there can be: the server has to reset the stream.
            raw.send(frame(WINDOW, 0, stream, struct.pack(">I", 0x7FFF_FFFF)))

    def made_you_reset_otherwise(raw: Raw) -> None:
        for _ in range(2_000):
            stream = raw.open()
            # A stream that depends on itself.
            raw.send(frame(PRIORITY, 0, stream, struct.pack(">IB", stream, 0)))

    def nothing_again_and_again(raw: Raw) -> None:
        stream = raw.open(PUSH)
        flood(raw, frame(DATA, 0, stream) * 10, 2_000)

    def bomb(raw: Raw) -> None:
        # Remembered once, and then named by one byte, again and again.
        remembered = b"\x40" + literal("x", "y" * 3_000)[1:]
        for stream in range(1, 400, 2):
            block = raw.headers() + (remembered if stream == 1 else b"") + b"\xbe" * 3_000
            raw.send(frame(HEADERS, END_HEADERS, stream, block))

    attacks = (
        headers_without_end, nothing_more_and_no_end, rapid_reset, made_you_reset, made_you_reset_otherwise,
        nothing_again_and_again, bomb,
    )  # fmt: skip
    for attack in attacks:
        raw = Raw(server, "foreign" if attack is nothing_again_and_again else "local")
        attack(raw)
        raw.goaway()
        assert call(server, EMPTY)["grpc-status"] == "0", attack.__name__
    assert resident(server) < 256 << 20


def test_pings_and_settings_without_end_hurt_nobody(beside):
    server, _ = beside
    for what in (frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0)):
        raw = Raw(server)
        # It reads nothing of what is answered: then nothing more is read of what it sends.
        raw.socket.settimeout(2)
        try:
            flood(raw, what * 100, 2_000)
        except TimeoutError:
            pass
        assert call(server, EMPTY)["grpc-status"] == "0"
        raw.socket.close()


def test_more_headers_than_anybody_needs_are_refused(beside):
    server, _ = beside
    raw = Raw(server)
    # Each counts 32 bytes more than it has.
    got = raw.answer(raw.open(end=True, **{f"x_{n}": "y" for n in range(600)}))
    assert got.get(":status") == "431" or got == {}, got


def test_a_watcher_whose_window_is_closed_hurts_nobody(beside):
    server, foreign = beside
    before = server.status()
    stuck = []
    for _ in range(20):
        raw = Raw(server, opens=False)
        # No byte of an answer fits.
        raw.send(PREFACE, frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)))
        stream = raw.open(WATCH)
        raw.send(frame(DATA, END_STREAM, stream, EMPTY))
        stuck.append(raw)
    assert before["monitors"] == server.status()["monitors"]
    wait_for("others are served", lambda: call(server, EMPTY)["grpc-status"] == "0")
    for raw in stuck:
        raw.socket.close()


def test_a_byte_at_a_time_is_slowed_down_and_what_is_small_by_nature_is_not(beside):
    server, _ = beside
    # An honest monitor that does not batch: small messages, each in a frame of its own, which nobody holds up.
    honest = Raw(server, "foreign")
    stream = honest.open(PUSH)
    hello = pb.PushSignalsRequest(hello=pb.Hello(monitor_id="honest", environment="stage", epoch=1))
    for message in (hello, *(batch(about(), seq=seq) for seq in range(1, 701))):
        body = message.SerializeToString()
        honest.send(frame(DATA, 0, stream, b"\x00" + struct.pack(">I", len(body)) + body))
    body = BYE.SerializeToString()
    honest.send(frame(DATA, END_STREAM, stream, b"\x00" + struct.pack(">I", len(body)) + body))
    assert honest.answer(stream)["grpc-status"] == "0"
    assert server.counted("slowed_reads") == 0

    drip = Raw(server, "foreign")
    stream = drip.open(PUSH)
    # The length of a message, and then what it says: a byte at a time, as much as fits into the window.
    drip.send(frame(DATA, 0, stream, b"\x00" + struct.pack(">I", 1 << 20)))
    flood(drip, frame(DATA, 0, stream, b"x") * 1_000, 65)
    assert call(server, EMPTY)["grpc-status"] == "0"

    # One that reads what is answered, so that nothing else holds it up.
    pings = Raw(server)
    reading = threading.Thread(target=lambda: all(True for _ in pings.frames()))
    reading.start()

    def slowed() -> bool:
        flood(pings, frame(PING, 0, 0, b"12345678") * 1_000, 100)
        return server.counted("slowed_reads") > 0

    wait_for("it is slowed down", slowed)
    assert call(server, EMPTY)["grpc-status"] == "0"
    drip.socket.close()
    pings.socket.shutdown(socket.SHUT_RDWR)
    reading.join()


def test_streams_beyond_the_limit_are_refused(beside):
    server, _ = beside
    raw, refused = Raw(server), set()
    for _ in range(300):
        stream = raw.open(WATCH)
        raw.send(frame(DATA, END_STREAM, stream, EMPTY))
    for kind, _, stream, payload in raw.frames():
        if (kind, payload) == (RST, struct.pack(">I", 7)):
            refused.add(stream)
        if len(refused) == 300 - 256:
            break
    else:
        raise AssertionError(f"only {len(refused)} refused")
    assert call(server, EMPTY)["grpc-status"] == "0"
    raw.socket.close()


def test_who_holds_many_requests_open_leaves_room_for_others(beside):
    server, _ = beside
    raw, refused = Raw(server, "foreign"), []
    for _ in range(80):
        raw.open(EXPORT)
    # Half of the places may be one principal's.
    while len(refused) < 80 - 32:
        refused.append(next(raw.statuses()))
    assert set(refused) == {EXHAUSTED}, refused
    another = Raw(server, "beside")
    stream = another.open(EXPORT)
    another.send(frame(DATA, END_STREAM, stream, EMPTY))
    assert another.answer(stream)["grpc-status"] == "0"
    for one in (raw, another):
        one.socket.close()
    wait_for("there is room again", lambda: call(server, EMPTY, path=EXPORT)["grpc-status"] == "0")


def test_messages_that_are_announced_and_never_come_cost_next_to_nothing(beside):
    server, _ = beside
    before = resident(server)
    raws = [Raw(server, "foreign") for _ in range(4)]
    for raw in raws:
        for _ in range(200):
            stream = raw.open(PUSH)
            raw.send(frame(DATA, 0, stream, b"\x00" + struct.pack(">I", 1 << 20)))
    assert call(server, EMPTY)["grpc-status"] == "0"
    assert resident(server) - before < 64 << 20
    for raw in raws:
        raw.socket.close()


def test_no_descriptor_left_is_waited_out_and_who_is_connected_notices_nothing(beside):
    server, _ = beside
    pid = server.process.pid
    connected, usual = Raw(server), resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 8, usual[1]))
    try:
        crowd, began = [Raw(server) for _ in range(40)], time.monotonic()
        time.sleep(2)
        stream = connected.open()
        connected.send(frame(DATA, END_STREAM, stream, EMPTY))
        assert connected.answer(stream)["grpc-status"] == "0"
        waited = time.monotonic() - began
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    wait_for("the rest is let in", lambda: call(server, EMPTY)["grpc-status"] == "0")
    errors = server.counted("accept_errors")
    # It rests 50 ms after each failure, where it would spin.
    assert 1 <= errors <= 20 * (waited + 5) * 2, errors
    for raw in (connected, *crowd):
        raw.socket.close()
