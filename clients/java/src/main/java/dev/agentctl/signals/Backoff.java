package dev.agentctl.signals;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.DoubleSupplier;

/**
 * Time between attempts: doubling, capped, and never the same for two monitors. Each wait is uniform between half of a step and the
 * step.
 */
final class Backoff {
    private final long first;
    private final long cap;
    private final DoubleSupplier draw;
    private int attempt;

    Backoff() {
        this(Duration.ofMillis(100), Duration.ofSeconds(5), () -> ThreadLocalRandom.current().nextDouble());
    }

    Backoff(Duration first, Duration cap, DoubleSupplier draw) {
        this.first = first.toNanos();
        this.cap = cap.toNanos();
        this.draw = draw;
    }

    /** The next wait. */
    Duration nextWait() {
        long step = Math.min(first << Math.min(attempt, 16), cap);
        attempt++;
        return Duration.ofNanos(step / 2 + (long) (step / 2 * draw.getAsDouble()));
    }

    /** Starts again with the first step: something worked. */
    void reset() {
        attempt = 0;
    }
}
