package dev.agentctl.signals;

import com.google.protobuf.Timestamp;
import dev.agentctl.v1.Bye;
import dev.agentctl.v1.Hello;
import dev.agentctl.v1.SignalBatch;
import dev.agentctl.v1.StreamSignalsRequest;
import dev.agentctl.v1.StreamSignalsResponse;
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
import java.util.function.Consumer;

/**
 * One stream of StreamSignals, from Hello to the answered goodbye.
 *
 * <p>The first answer is the cursor: what the server has heard of this run of the monitor is not sent again, and everything behind it
 * is, under the same numbers. From then on answers acknowledge as the stream goes. A stream that ends in any other way than by an
 * answered goodbye is lost, and another one goes on where the server says.
 */
final class Link implements ClientResponseObserver<StreamSignalsRequest, StreamSignalsResponse> {
    /** The server answers at least every 10 s: one that says nothing for three times as long is as good as gone. */
    private static final long SILENCE = Duration.ofSeconds(30).toNanos();

    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final Shared shared;
    private final Consumer<StreamSignalsResponse> take;
    private ClientCallStreamObserver<StreamSignalsRequest> call;
    // Guarded by `shared`.
    private long heard = System.nanoTime();
    /** The number to go on behind; none before the first answer. */
    private Long sent;

    private boolean closed;
    private boolean over;
    private StatusRuntimeException failure;

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

    private Link(Shared shared, Consumer<StreamSignalsResponse> take) {
        this.shared = shared;
        this.take = take;
    }

    /** Sends what the outbox has until the goodbye is answered; answers are handed to {@code take} as they come. */
    static void run(
            ManagedChannel channel, String token, Hello hello, Shared shared, Consumer<StreamSignalsResponse> take)
            throws InterruptedException {
        Link link = new Link(shared, take);
        TelemetryServiceGrpc.newStub(channel)
                .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(authorization(token)))
                .streamSignals(link);
        link.call.onNext(StreamSignalsRequest.newBuilder().setHello(hello).build());
        link.send();
        synchronized (shared) {
            while (!link.over) {
                link.giveUpIfLate();
                shared.await(System.nanoTime() + 1_000_000_000);
            }
            if (link.failure != null) {
                throw link.failure;
            }
        }
    }

    /** Who we are to the server. */
    static Metadata authorization(String token) {
        Metadata metadata = new Metadata();
        metadata.put(AUTHORIZATION, "Bearer " + token);
        return metadata;
    }

    private void send() throws InterruptedException {
        for (Optional<StreamSignalsRequest> next = next(); next.isPresent(); next = next()) {
            try {
                call.onNext(next.get());
                if (next.get().hasBye()) {
                    call.onCompleted();
                    return;
                }
            } catch (IllegalStateException ended) {
                // It ended between the look and the call; why is in the answer.
                return;
            }
        }
    }

    /** The next batch, or the goodbye behind the last one; nothing when the stream is over. */
    private Optional<StreamSignalsRequest> next() throws InterruptedException {
        synchronized (shared) {
            while (!over) {
                giveUpIfLate();
                if (sent != null) {
                    Optional<Outbox.Batch> batch = shared.outbox.after(sent, System.nanoTime());
                    if (batch.isPresent() && call.isReady()) {
                        sent = batch.get().seq();
                        return batch.map(Link::message);
                    }
                    if (batch.isEmpty() && shared.leaving != null) {
                        Bye bye = Bye.newBuilder().setReason(shared.leaving).build();
                        return Optional.of(StreamSignalsRequest.newBuilder().setBye(bye).build());
                    }
                }
                shared.await(System.nanoTime() + 1_000_000_000);
            }
            return Optional.empty();
        }
    }

    /** Gives the stream up when the server or the client has waited for long enough. */
    private void giveUpIfLate() {
        long now = System.nanoTime();
        if (now - heard >= SILENCE || now >= shared.leaveBy) {
            call.cancel("no answer from the server", null);
        }
    }

    private static StreamSignalsRequest message(Outbox.Batch batch) {
        SignalBatch.Builder wire = SignalBatch.newBuilder()
                .setSeq(batch.seq())
                .setSentTime(now())
                .addAllSignals(batch.signals());
        return StreamSignalsRequest.newBuilder().setBatch(wire).build();
    }

    /** The time by the clock of this host. */
    static Timestamp now() {
        Instant now = Instant.now();
        return Timestamp.newBuilder().setSeconds(now.getEpochSecond()).setNanos(now.getNano()).build();
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<StreamSignalsRequest> call) {
        this.call = call;
        call.setOnReadyHandler(() -> {
            synchronized (shared) {
                shared.notifyAll();
            }
        });
    }

    @Override
    public void onNext(StreamSignalsResponse answer) {
        synchronized (shared) {
            heard = System.nanoTime();
            closed = answer.getClosed();
            take.accept(answer);
            sent = sent == null ? Long.valueOf(answer.getAckedSeq()) : sent;
            shared.notifyAll();
        }
    }

    @Override
    public void onError(Throwable error) {
        Metadata trailers = Status.trailersFromThrowable(error);
        end(new StatusRuntimeException(Status.fromThrowable(error), trailers));
    }

    @Override
    public void onCompleted() {
        end(null);
    }

    private void end(StatusRuntimeException failure) {
        synchronized (shared) {
            boolean unanswered = failure == null && !closed;
            this.failure = unanswered
                    ? Status.UNKNOWN.withDescription("the stream ended without a goodbye").asRuntimeException()
                    : failure;
            over = true;
            shared.notifyAll();
        }
    }
}
