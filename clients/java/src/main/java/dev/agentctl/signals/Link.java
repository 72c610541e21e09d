package dev.agentctl.signals;

import com.google.protobuf.Timestamp;
import dev.agentctl.v1.Bye;
import dev.agentctl.v1.Hello;
import dev.agentctl.v1.PushSignalsRequest;
import dev.agentctl.v1.PushSignalsResponse;
import dev.agentctl.v1.SignalBatch;
import dev.agentctl.v1.TelemetryServiceGrpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.time.Instant;
import java.util.Optional;
import java.util.concurrent.TimeUnit;

/**
 * One stream of PushSignals, from Hello to the summary.
 *
 * <p>This stream acknowledges at its end: so it is ended now and then ({@link Options#ackEvery}, or when the buffer is half full) and
 * opened again with the same epoch. A stream that acknowledges as it goes would be another class of this shape, calling
 * {@link Outbox#acknowledge} for each message it receives; the rest of the client would not change.
 */
final class Link implements ClientResponseObserver<PushSignalsRequest, PushSignalsResponse> {
    /** Time for the summary after Bye. */
    private static final Duration SUMMARY_TIMEOUT = Duration.ofSeconds(10);

    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final Shared shared;
    private final long dueAt;
    private ClientCallStreamObserver<PushSignalsRequest> call;
    private PushSignalsResponse summary;
    private StatusRuntimeException failure;
    private boolean over;

    /** What the stream and the rest of the client look at, guarded by its own monitor. */
    static final class Shared {
        /** Far away, and no sum of it with a time overflows. */
        static final long NEVER = Long.MAX_VALUE / 2;

        final Outbox outbox;
        /** Why the client leaves, once it does. */
        String leaving;
        /** When it gives up waiting for that, as {@link System#nanoTime} has it. */
        long leaveBy = NEVER;

        Shared(Outbox outbox) {
            this.outbox = outbox;
        }

        /** Waits until something changed or {@code until} has come; gives the lock away in any case. */
        void await(long until) throws InterruptedException {
            long left = Math.min(until, leaveBy) - System.nanoTime();
            TimeUnit.NANOSECONDS.timedWait(this, Math.max(left, 1_000_000));
        }
    }

    private Link(Shared shared, long dueAt) {
        this.shared = shared;
        this.dueAt = dueAt;
    }

    /** Sends what the outbox has until it is time for a summary, and returns that. */
    static PushSignalsResponse run(ManagedChannel channel, String token, Hello hello, Shared shared, Duration ackEvery)
            throws InterruptedException {
        Metadata metadata = new Metadata();
        metadata.put(AUTHORIZATION, "Bearer " + token);
        Link link = new Link(shared, System.nanoTime() + ackEvery.toNanos());
        TelemetryServiceGrpc.newStub(channel)
                .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata))
                // The server may take no longer than this to say what it has, or it is as good as gone.
                .withDeadlineAfter(ackEvery.plus(SUMMARY_TIMEOUT).toNanos(), TimeUnit.NANOSECONDS)
                .pushSignals(link);
        link.call.onNext(PushSignalsRequest.newBuilder().setHello(hello).build());
        link.send();
        synchronized (shared) {
            while (!link.over) {
                if (System.nanoTime() >= shared.leaveBy) {
                    link.call.cancel("it is time to leave", null);
                }
                shared.await(Shared.NEVER);
            }
        }
        if (link.failure != null) {
            throw link.failure;
        }
        return link.summary;
    }

    private void send() throws InterruptedException {
        long sent = 0;
        for (Optional<PushSignalsRequest> next = next(sent); next.isPresent(); next = next(sent)) {
            PushSignalsRequest message = next.get();
            try {
                call.onNext(message);
                if (message.hasBye()) {
                    call.onCompleted();
                    return;
                }
            } catch (IllegalStateException ended) {
                // It ended between the look and the call; why is in the answer.
                return;
            }
            sent = message.getBatch().getSeq();
        }
    }

    /** The next batch or the goodbye; nothing when the stream is over or it is time to leave. */
    private Optional<PushSignalsRequest> next(long sent) throws InterruptedException {
        synchronized (shared) {
            while (!over && System.nanoTime() < shared.leaveBy) {
                Outbox outbox = shared.outbox;
                long now = System.nanoTime();
                Optional<Outbox.Batch> batch = outbox.after(sent, now);
                boolean unacknowledged = sent > outbox.ackedSeq();
                boolean due = now - dueAt >= 0 && (batch.isEmpty() || unacknowledged);
                // What was sent and waits for its acknowledgement must not push out what was not.
                boolean full = outbox.crowded() && unacknowledged;
                if (shared.leaving == null && (due || full)) {
                    return Optional.of(bye("checkpoint"));
                }
                if (batch.isPresent() && call.isReady()) {
                    return batch.map(Link::message);
                }
                if (batch.isEmpty() && shared.leaving != null) {
                    return Optional.of(bye(shared.leaving));
                }
                shared.await(now - dueAt < 0 ? dueAt : now + 1_000_000_000);
            }
            return Optional.empty();
        }
    }

    private static PushSignalsRequest bye(String reason) {
        return PushSignalsRequest.newBuilder().setBye(Bye.newBuilder().setReason(reason)).build();
    }

    private static PushSignalsRequest message(Outbox.Batch batch) {
        SignalBatch.Builder wire = SignalBatch.newBuilder()
                .setSeq(batch.seq())
                .setSentTime(now())
                .addAllSignals(batch.signals());
        return PushSignalsRequest.newBuilder().setBatch(wire).build();
    }

    /** The time by the clock of this host. */
    static Timestamp now() {
        Instant now = Instant.now();
        return Timestamp.newBuilder().setSeconds(now.getEpochSecond()).setNanos(now.getNano()).build();
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<PushSignalsRequest> call) {
        this.call = call;
        call.setOnReadyHandler(() -> {
            synchronized (shared) {
                shared.notifyAll();
            }
        });
    }

    @Override
    public void onNext(PushSignalsResponse summary) {
        synchronized (shared) {
            this.summary = summary;
        }
    }

    @Override
    public void onError(Throwable error) {
        Metadata trailers = Status.trailersFromThrowable(error);
        end(new StatusRuntimeException(Status.fromThrowable(error), trailers));
    }

    @Override
    public void onCompleted() {
        end(summary == null ? Status.INTERNAL.withDescription("no summary").asRuntimeException() : null);
    }

    private void end(StatusRuntimeException failure) {
        synchronized (shared) {
            this.failure = failure;
            over = true;
            shared.notifyAll();
        }
    }
}
