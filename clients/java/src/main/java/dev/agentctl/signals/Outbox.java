package dev.agentctl.signals;

import dev.agentctl.v1.Signal;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * Signals that the server has not acknowledged yet: numbered, bounded, in order. At most {@code limit} of them, none older than
 * {@code maxAge} nanoseconds; the oldest give way and are counted.
 *
 * <p>It knows nothing of streams. Whoever sends asks for the batch behind the last one it sent, and calls {@link #acknowledge}
 * whenever it learns that the server has everything up to a number.
 */
final class Outbox {
    /** Limits of the server for one batch; the bytes leave room for what surrounds the signals. */
    static final int BATCH_SIGNALS = 1_000;

    static final int BATCH_BYTES = 900 * 1024;

    /** Signals under one sequence number. */
    record Batch(long seq, List<Signal> signals, long queuedAt) {}

    private final int limit;
    private final long maxAge;
    private final ArrayDeque<Batch> batches = new ArrayDeque<>();
    private long lastSeq;
    private long ackedSeq;
    private int pending;
    private long dropped;

    Outbox(int limit, long maxAge) {
        this.limit = limit;
        this.maxAge = maxAge;
    }

    /** Takes signals in, as few batches as the server's limits allow. One that could never be sent is dropped. */
    void add(Iterable<Signal> signals, long now) {
        List<Signal> part = new ArrayList<>();
        int size = 0;
        for (Signal signal : signals) {
            int cost = signal.getSerializedSize() + 8;
            if (cost > BATCH_BYTES) {
                dropped++;
                continue;
            }
            if (!part.isEmpty() && (part.size() == BATCH_SIGNALS || size + cost > BATCH_BYTES)) {
                append(part, now);
                part = new ArrayList<>();
                size = 0;
            }
            part.add(signal);
            size += cost;
        }
        if (!part.isEmpty()) {
            append(part, now);
        }
    }

    private void append(List<Signal> signals, long now) {
        lastSeq++;
        batches.add(new Batch(lastSeq, signals, now));
        pending += signals.size();
        // The newest batch stays, whatever its size: it is what the server should know.
        while (pending > limit && batches.size() > 1) {
            dropOldest();
        }
    }

    private void dropOldest() {
        int gone = batches.remove().signals().size();
        pending -= gone;
        dropped += gone;
    }

    /** The first batch with a higher number than {@code seq}, after dropping what is too old to be believed. */
    Optional<Batch> after(long seq, long now) {
        while (!batches.isEmpty() && now - batches.element().queuedAt() > maxAge) {
            dropOldest();
        }
        return batches.stream().filter(batch -> batch.seq() > seq).findFirst();
    }

    /** The server has everything up to {@code seq}. */
    void acknowledge(long seq) {
        long upTo = Math.min(seq, lastSeq);
        ackedSeq = Math.max(ackedSeq, upTo);
        while (!batches.isEmpty() && batches.element().seq() <= upTo) {
            pending -= batches.remove().signals().size();
        }
    }

    long lastSeq() {
        return lastSeq;
    }

    long ackedSeq() {
        return ackedSeq;
    }

    int pending() {
        return pending;
    }

    long dropped() {
        return dropped;
    }
}
