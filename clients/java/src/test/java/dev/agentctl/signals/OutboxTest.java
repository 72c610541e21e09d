package dev.agentctl.signals;

import static org.junit.jupiter.api.Assertions.assertEquals;

import dev.agentctl.v1.Signal;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;

class OutboxTest {
    private static List<Signal> signals(int n, String app) {
        return Collections.nCopies(n, Signal.newBuilder().setApp(app).setCpuUtilization(0.5).build());
    }

    private static List<Long> sequence(Outbox outbox, long now) {
        List<Long> found = new ArrayList<>();
        Optional<Outbox.Batch> batch = outbox.after(0, now);
        while (batch.isPresent()) {
            found.add(batch.get().seq());
            batch = outbox.after(batch.get().seq(), now);
        }
        return found;
    }

    @Test
    void whatIsNotAcknowledgedIsThereToBeSentAgainInOrder() {
        Outbox outbox = new Outbox(100, 60);
        for (int n = 0; n < 4; n++) {
            outbox.add(signals(2, "web"), 0);
        }
        assertEquals(List.of(1L, 2L, 3L, 4L), sequence(outbox, 0));
        outbox.acknowledge(2);
        assertEquals(List.of(3L, 4L), sequence(outbox, 0), "the same numbers again");
        outbox.acknowledge(1);
        assertEquals(2, outbox.ackedSeq(), "an acknowledgement is never taken back");
        assertEquals(4, outbox.pending());
        outbox.acknowledge(99);
        assertEquals(4, outbox.ackedSeq(), "nothing is acknowledged that was never made");
        assertEquals(0, outbox.pending());
    }

    @Test
    void aFullBufferDropsTheOldestAndCountsIt() {
        Outbox outbox = new Outbox(5, 60);
        for (int n = 0; n < 4; n++) {
            outbox.add(signals(2, "web"), 0);
        }
        assertEquals(List.of(3L, 4L), sequence(outbox, 0));
        assertEquals(4, outbox.dropped());
        assertEquals(4, outbox.pending());
        outbox.add(signals(9, "web"), 0);
        assertEquals(List.of(5L), sequence(outbox, 0), "the newest stays, whatever its size");
    }

    @Test
    void whatIsTooOldToBeBelievedIsNotSent() {
        Outbox outbox = new Outbox(100, 60);
        outbox.add(signals(1, "web"), 0);
        outbox.add(signals(1, "web"), 50);
        assertEquals(List.of(2L), sequence(outbox, 61));
        assertEquals(1, outbox.dropped());
    }

    @Test
    void batchesKeepToTheLimitsOfTheServer() {
        Outbox outbox = new Outbox(10_000, 60);
        outbox.add(signals(2_500, "web"), 0);
        List<Integer> sizes = new ArrayList<>();
        for (long seq : sequence(outbox, 0)) {
            sizes.add(outbox.after(seq - 1, 0).orElseThrow().signals().size());
        }
        assertEquals(List.of(1_000, 1_000, 500), sizes);
        Outbox big = new Outbox(10_000, 60);
        big.add(signals(3, "x".repeat(Outbox.BATCH_BYTES / 2)), 0);
        assertEquals(List.of(1L, 2L, 3L), sequence(big, 0));
        big.add(signals(1, "x".repeat(Outbox.BATCH_BYTES + 1)), 0);
        assertEquals(3, big.lastSeq(), "what no batch can hold is never sent");
        assertEquals(1, big.dropped());
    }

    @Test
    void waitsDoubleUpToTheCapAndStartAgainAfterSuccess() {
        Backoff longest = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(2), () -> 1);
        Backoff shortest = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(2), () -> 0);
        for (long step : new long[] {100, 200, 400, 800, 1600, 2000, 2000}) {
            assertEquals(Duration.ofMillis(step), longest.nextWait());
            assertEquals(Duration.ofMillis(step / 2), shortest.nextWait());
        }
        longest.reset();
        assertEquals(Duration.ofMillis(100), longest.nextWait());
    }
}
