"""A monitor that stays, from a foreign client over a real socket: what is acknowledged, where it goes on, and what its silence says."""

import time

import grpc
from conftest import App, reading, wait_for
from foreign import BYE, Foreign, about, batch


def rate(server):
    """The request rate that decisions see: what the server does not measure itself."""
    return reading(server, "good").get("request_rate")


def sees(server, value):
    wait_for(f"decisions see {value}", lambda: rate(server) == value)


def test_what_is_sent_again_after_a_reconnect_changes_nothing(beside):
    server, foreign = beside
    first = foreign.stay(foreign.hello())
    assert first.answer().acked_seq == 0, "never heard of"
    first.send(*(batch(about(request_rate=seq), seq=seq) for seq in (1, 2, 3)))
    told = first.acked(3)
    assert (told.accepted, told.duplicates, told.rejected, told.missed, told.closed) == (3, 0, 0, 0, False)
    first.cut()

    again = foreign.stay(foreign.hello(epoch=foreign.epoch))
    assert again.answer().acked_seq == 3, "the cursor: behind it it goes on"
    again.send(batch(about(request_rate=9), seq=2), batch(about(request_rate=8), seq=3))
    again.send(batch(about(memory_utilization=0.4), seq=4), BYE)
    last = again.acked(4)
    while not last.closed:
        last = again.answer()
    assert (last.accepted, last.duplicates, last.missed) == (1, 2, 0)
    assert list(again.call) == [], "the goodbye is answered, and nothing comes behind it"
    wait_for("the last one is seen", lambda: reading(server, "good").get("memory_utilization") == 0.4)
    assert rate(server) == 3, "what came twice counts as it came first"


def test_another_run_of_the_monitor_begins_anew(beside):
    _, foreign = beside
    for _ in range(2):
        stream = foreign.stay(foreign.hello(), batch(about()))
        assert (stream.answer().acked_seq, stream.acked(1).duplicates) == (0, 0)
        stream.cut()
    third = foreign.stay(foreign.hello(), batch(about()), batch(about(), seq=5), BYE)
    told = third.acked(5)
    assert (told.accepted, told.missed) == (2, 3), "numbers that never came are counted"


def test_signals_expire_by_the_time_their_monitor_gave_them_and_those_of_others_stay(beside):
    server, foreign = beside
    short = foreign.stay(foreign.hello(ttl=1.5))
    numbers = iter(range(1, 1_000))

    def says(signals):
        """Says it, and looks whether decisions see it: a signal with a short life is older than an app that is new."""
        short.send(batch(*signals(), seq=next(numbers)))
        time.sleep(0.3)
        return rate(server)

    wait_for("it is seen", lambda: says(lambda: [about(request_rate=7)]) == 7)
    # The stream is open all the while: it is what was said that grows old, not the monitor.
    sees(server, None)
    assert short.call.is_active()

    def longer():
        """A signal's own time goes before that of the stream."""
        signal = about(latency_p50_seconds=0.25)
        signal.ttl.FromMilliseconds(600_000)
        return [signal, about(request_rate=8)]

    wait_for("both are seen", lambda: says(longer) == 8)
    sees(server, None)
    assert reading(server, "good")["latency_p50"] >= 0.25
    short.send(BYE)


def test_a_goodbye_is_no_loss_and_a_loss_says_nothing_about_the_app(beside):
    server, foreign = beside
    lost = "monitor lost"
    stays = foreign.stay(foreign.hello(monitor="leaves"), batch(about()), BYE)
    while not stays.answer().closed:
        pass
    wait_for("it left", lambda: "leaves@foreign" in server.log())
    assert lost not in server.log()

    before = server.head()
    for end in ("cut", "half-closed"):
        stream = foreign.stay(foreign.hello(monitor=end, ttl=1.0), batch(about(request_rate=5)))
        stream.acked(1)
        if end == "cut":
            stream.cut()
        else:
            # A clean end of the stream proves nothing.
            stream.send(None)
            assert not any(answer.closed for answer in stream.call)
        wait_for(f"{end} is noticed", lambda end=end: f"{end}@foreign" in server.log() and lost in server.log())
        sees(server, None)
    acted = [r for r in server.records() if r["seq"] > before and r["event_name"] in ("ORCH_EXEC", "FAILURE_INJECTED")]
    assert acted == [], "nobody touched the app"


def test_bad_signals_are_told_while_the_stream_goes_on(beside):
    _, foreign = beside
    stream = foreign.stay(foreign.hello(), batch(about(), about("nobody"), about(ahead=3600)))
    told = stream.acked(1)
    assert (told.accepted, told.rejected) == (1, 2)
    assert [(r.seq, r.index, r.reason) for r in told.rejections] == [(1, 1, "UNKNOWN_APP"), (1, 2, "CLOCK_SKEW")]
    stream.send(batch(about(), seq=2))
    told = stream.acked(2)
    assert (told.accepted, told.rejected, len(told.rejections)) == (2, 2, 0), "counted, and not told again"
    stream.send(batch(*[about("nobody")] * 150, seq=3))
    assert stream.fails() == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_BAD_SIGNALS")
    back = foreign.stay(foreign.hello(epoch=foreign.epoch))
    assert back.answer().acked_seq == 3, "they were judged: whoever comes back goes on behind them"
    back.send(BYE)


def test_a_monitor_that_screams_is_told_when_to_come_again(beside):
    server, foreign = beside
    stream = foreign.stay(foreign.hello(monitor="screams"))
    stream.answer()
    scream = [about(cpu_utilization=0.99)] * 1000
    stream.send(*(batch(*scream, seq=seq) for seq in range(1, 400)))
    assert stream.fails() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SIGNAL_RATE")
    status = server.status()
    assert status["monitors"] <= 1
    memory = int(open(f"/proc/{server.process.pid}/statm").read().split()[1]) * 4096
    assert memory < 256 << 20, f"{memory >> 20} MiB"


def test_a_monitor_that_lies_has_nothing_done_to_its_app(beside):
    server, foreign = beside
    before = server.head()
    # Someone else says all the while that the memory is at 0.2; this one says it is full, and that the CPU is high and low at once.
    lies = {"memory_utilization": 1.0, "conditions": {"cpu_high": True, "cpu_low": True}}
    for seq in range(1, 21):
        foreign.send(foreign.hello(monitor="lies"), batch(about(**lies), seq=seq), BYE)
        time.sleep(0.05)
    decided = server.wait_record(
        "it is looked at more closely",
        lambda r: r["seq"] > before and "SIGNAL_CONFLICT_OBSERVE" in str(r) and r.get("app") == "good",
    )
    assert decided["body"]["decided"]["proposal"]["action"] in ("OBSERVE", "NOOP", "RESTART", "SCALE_UP")
    acted = [r for r in server.records() if r["seq"] > before and r["event_name"] == "ORCH_EXEC"]
    assert acted == [], acted


def test_a_server_that_stops_acknowledges_what_it_took(server_of):
    server = server_of({"foreign": ["good"]})
    App(server, "good", 8093)
    foreign = Foreign(server, "foreign")
    stream = foreign.stay(foreign.hello(), batch(about()))
    stream.acked(1)
    server.process.terminate()
    assert stream.fails() == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert server.process.wait(timeout=60) == 0
