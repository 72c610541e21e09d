package dev.agentctl.signals;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.agentctl.v1.Hello;
import dev.agentctl.v1.PushSignalsResponse;
import dev.agentctl.v1.Rejection;
import dev.agentctl.v1.Signal;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.security.SecureRandom;
import java.time.Duration;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.Set;

/** Pushes signals to one agentd: they go in without waiting, and a thread of its own takes them there. */
public final class SignalClient implements AutoCloseable {
    /** What another attempt would not change. */
    private static final Set<Status.Code> PERMANENT = EnumSet.of(
            Status.Code.INVALID_ARGUMENT,
            Status.Code.NOT_FOUND,
            Status.Code.PERMISSION_DENIED,
            Status.Code.UNAUTHENTICATED,
            Status.Code.UNIMPLEMENTED,
            Status.Code.OUT_OF_RANGE);

    private final Options options;
    private final Hello hello;
    private final Link.Shared shared;
    private final Thread thread;
    private final Backoff backoff = new Backoff();
    // Guarded by `shared`, like the outbox.
    private PushSignalsResponse total = PushSignalsResponse.getDefaultInstance();
    private long lostStreams;
    private Refused refused;

    /** Starts a client. It connects by itself, again and again, until it is closed. */
    public SignalClient(Options options) {
        this.options = options;
        long epoch = new SecureRandom().nextLong();
        Hello.Builder greeting = Hello.newBuilder()
                .setMonitorId(options.monitorId())
                .setEnvironment(options.environment())
                // Zero is the one number that says nothing.
                .setEpoch(epoch == 0 ? 1 : epoch);
        if (options.ttl() != null) {
            greeting.setDefaultTtl(wire(options.ttl()));
        }
        hello = greeting.build();
        shared = new Link.Shared(new Outbox(options.buffer(), options.maxAge().toNanos()));
        thread = new Thread(this::run, "agentctl-signals");
        thread.setDaemon(true);
        thread.start();
    }

    /** A span as the messages have it. */
    public static com.google.protobuf.Duration wire(Duration span) {
        return com.google.protobuf.Duration.newBuilder()
                .setSeconds(span.getSeconds())
                .setNanos(span.getNano())
                .build();
    }

    /** Queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere. */
    public void push(Signal... signals) {
        List<Signal> timed = new ArrayList<>();
        for (Signal signal : signals) {
            timed.add(signal.hasTime() ? signal : signal.toBuilder().setTime(Link.now()).build());
        }
        synchronized (shared) {
            shared.outbox.add(timed, System.nanoTime());
            shared.notifyAll();
        }
    }

    /** What became of the signals so far. */
    public Stats stats() {
        synchronized (shared) {
            Outbox out = shared.outbox;
            return new Stats(
                    out.lastSeq(), out.ackedSeq(), out.pending(), out.dropped(), total.getAccepted(),
                    total.getDuplicates(), total.getRejected(), total.getMissed(), lostStreams);
        }
    }

    /** What ended the client, if the server refused it. */
    public Optional<Refused> refusal() {
        synchronized (shared) {
            return Optional.ofNullable(refused);
        }
    }

    /** Sends what waits, says goodbye and ends, within five seconds. */
    @Override
    public void close() {
        close("", Duration.ofSeconds(5));
    }

    /** As {@link #close()}; true when the server has everything that was not dropped. */
    public boolean close(String reason, Duration timeout) {
        synchronized (shared) {
            if (shared.leaving == null) {
                shared.leaving = reason;
                shared.leaveBy = System.nanoTime() + timeout.toNanos();
            }
            shared.notifyAll();
        }
        try {
            thread.join(timeout.plusSeconds(1).toMillis());
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
        return !thread.isAlive() && stats().pending() == 0 && refusal().isEmpty();
    }

    private void run() {
        ManagedChannel channel = null;
        try {
            for (Optional<Duration> wait = Optional.of(Duration.ZERO); wait.isPresent() && pause(wait.get()); ) {
                try {
                    channel = channel == null ? options.target().channel() : channel;
                    PushSignalsResponse summary = Link.run(channel, options.token(), hello, shared, options.ackEvery());
                    backoff.reset();
                    wait = take(summary) ? Optional.empty() : Optional.of(Duration.ZERO);
                } catch (StatusRuntimeException error) {
                    channel.shutdownNow();
                    channel = null;
                    wait = failed(error);
                } catch (IOException roots) {
                    wait = failed(Status.INVALID_ARGUMENT.withDescription("the certificates cannot be used").asRuntimeException());
                }
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        } finally {
            if (channel != null) {
                channel.shutdownNow();
            }
        }
    }

    /** Notes a summary; true when nothing is left to do. */
    private boolean take(PushSignalsResponse summary) {
        List<Rejection> rejections = summary.getRejectionsList();
        for (Rejection r : rejections.subList(0, Math.min(rejections.size(), 3))) {
            options.log().accept(String.format(
                    "rejected: %s %s, got `%s` (%s)", r.getField(), r.getRule(), r.getValue(), r.getReason()));
        }
        if (summary.getRejected() > 3) {
            options.log().accept("rejected: " + summary.getRejected() + " signals in all");
        }
        synchronized (shared) {
            shared.outbox.acknowledge(summary.getHighWaterSeq());
            total = PushSignalsResponse.newBuilder()
                    .setAccepted(total.getAccepted() + summary.getAccepted())
                    .setDuplicates(total.getDuplicates() + summary.getDuplicates())
                    .setRejected(total.getRejected() + summary.getRejected())
                    .setMissed(total.getMissed() + summary.getMissed())
                    .build();
            return shared.leaving != null && shared.outbox.pending() == 0;
        }
    }

    /** Notes the loss of a stream: the wait before the next one, unless it is final. */
    private Optional<Duration> failed(StatusRuntimeException error) {
        Status status = error.getStatus();
        synchronized (shared) {
            lostStreams++;
        }
        Optional<PushSignalsResponse> summary = detail(error, PushSignalsResponse.class);
        if (summary.isPresent()) {
            // Cut for its bad signals: they were judged, so sending them again would end the next stream too.
            take(summary.get());
        } else if (PERMANENT.contains(status.getCode())) {
            String reason = detail(error, ErrorInfo.class).map(ErrorInfo::getReason).orElse(status.getCode().name());
            Refused why = new Refused(status.getCode(), text(status), reason);
            options.log().accept("refused: " + why);
            synchronized (shared) {
                refused = why;
            }
            return Optional.empty();
        }
        Duration wait = backoff.nextWait();
        Duration asked = detail(error, RetryInfo.class)
                .map(retry -> Duration.ofSeconds(retry.getRetryDelay().getSeconds(), retry.getRetryDelay().getNanos()))
                .orElse(Duration.ZERO);
        wait = wait.compareTo(asked) < 0 ? asked : wait;
        options.log().accept(String.format(Locale.ROOT, "lost: %s; again in %.1f s", text(status), wait.toMillis() / 1e3));
        return Optional.of(wait);
    }

    private static String text(Status status) {
        return switch (status.getCode()) {
            case DEADLINE_EXCEEDED, CANCELLED -> "no answer from the server";
            default -> status.getDescription() == null ? status.getCode().name() : status.getDescription();
        };
    }

    private static <T extends Message> Optional<T> detail(StatusRuntimeException error, Class<T> kind) {
        com.google.rpc.Status status = StatusProto.fromThrowable(error);
        for (Any packed : status == null ? List.<Any>of() : status.getDetailsList()) {
            try {
                if (packed.is(kind)) {
                    return Optional.of(packed.unpack(kind));
                }
            } catch (InvalidProtocolBufferException unreadable) {
                // Details that cannot be read are none: the code and the message stand by themselves.
                return Optional.empty();
            }
        }
        return Optional.empty();
    }

    /** Waits; false when the time to leave is over. */
    private boolean pause(Duration wait) throws InterruptedException {
        long end = System.nanoTime() + wait.toNanos();
        synchronized (shared) {
            while (System.nanoTime() < shared.leaveBy) {
                if (System.nanoTime() >= end) {
                    return true;
                }
                shared.await(end);
            }
        }
        return false;
    }
}
