from agentctl.v1.telemetry_pb2 import Signal

from agentctl_signals.backoff import Backoff
from agentctl_signals.outbox import BATCH_BYTES, Outbox


def signals(n, app="web"):
    return [Signal(app=app, cpu_utilization=0.5)] * n


def sequence(outbox, now=0.0):
    found, seq = [], 0
    while batch := outbox.after(seq, now):
        seq = batch.seq
        found.append(seq)
    return found


def test_what_is_not_acknowledged_is_there_to_be_sent_again_in_order():
    outbox = Outbox(limit=100, max_age=60)
    for _ in range(4):
        outbox.add(signals(2), 0.0)
    assert sequence(outbox) == [1, 2, 3, 4]
    outbox.acknowledge(2)
    assert sequence(outbox) == [3, 4], "the same numbers again"
    assert (outbox.acked_seq, outbox.pending) == (2, 4)
    outbox.acknowledge(1)
    assert outbox.acked_seq == 2, "an acknowledgement is never taken back"
    outbox.acknowledge(99)
    assert (outbox.acked_seq, outbox.pending) == (4, 0), "nothing is acknowledged that was never made"


def test_a_full_buffer_drops_the_oldest_and_counts_it():
    outbox = Outbox(limit=5, max_age=60)
    for _ in range(4):
        outbox.add(signals(2), 0.0)
    assert sequence(outbox) == [3, 4]
    assert (outbox.dropped, outbox.pending) == (4, 4)
    outbox.add(signals(9), 0.0)
    assert sequence(outbox) == [5], "the newest stays, whatever its size"


def test_what_is_too_old_to_be_believed_is_not_sent():
    outbox = Outbox(limit=100, max_age=60)
    outbox.add(signals(1), 0.0)
    outbox.add(signals(1), 50.0)
    assert sequence(outbox, now=61.0) == [2]
    assert outbox.dropped == 1


def test_batches_keep_to_the_limits_of_the_server():
    outbox = Outbox(limit=10_000, max_age=60)
    outbox.add(signals(2_500), 0.0)
    assert [len(outbox.after(seq, 0.0).signals) for seq in range(3)] == [1000, 1000, 500]
    big = Outbox(limit=10_000, max_age=60)
    big.add(signals(3, app="x" * (BATCH_BYTES // 2)), 0.0)
    assert sequence(big) == [1, 2, 3]
    big.add(signals(1, app="x" * (BATCH_BYTES + 1)), 0.0)
    assert (sequence(big), big.dropped) == ([1, 2, 3], 1), "what no batch can hold is never sent"


def test_waits_double_up_to_the_cap_and_start_again_after_success():
    shortest, longest = Backoff(0.1, 2.0, draw=lambda: 0.0), Backoff(0.1, 2.0, draw=lambda: 1.0)
    steps = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert [round(longest.next_wait(), 6) for _ in steps] == steps
    assert [round(shortest.next_wait(), 6) for _ in steps] == [step / 2 for step in steps]
    longest.reset()
    assert longest.next_wait() == 0.1
