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
import dev.agentctl.v1.StreamSignalsResponse;
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
    /** What the streams that are over counted, and what the present one has counted so far. */
    private StreamSignalsResponse past = StreamSignalsResponse.getDefaultInstance();

    private StreamSignalsResponse told = StreamSignalsResponse.getDefaultInstance();
    private long lostStreams;
    private Refused refused;

    /** Starts a client. It connects by itself, again and again, until it is closed. */
    public SignalClient(Options options) {
        this.options = options;
        hello = hello(options);
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

    /** Who pushes. Each call is another run of the monitor. */
    static Hello hello(Options options) {
        long epoch = new SecureRandom().nextLong();
        Hello.Builder greeting = Hello.newBuilder()
                .setMonitorId(options.monitorId())
                .setEnvironment(options.environment())
                // Zero is the one number that says nothing.
                .setEpoch(epoch == 0 ? 1 : epoch);
        if (options.ttl() != null) {
            greeting.setDefaultTtl(wire(options.ttl()));
        }
        return greeting.build();
    }

    /** A signal without a time was measured now. */
    static List<Signal> timed(Signal... signals) {
        List<Signal> timed = new ArrayList<>();
        for (Signal signal : signals) {
            timed.add(signal.hasTime() ? signal : signal.toBuilder().setTime(Link.now()).build());
        }
        return timed;
    }

    /** Queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere. */
    public void push(Signal... signals) {
        synchronized (shared) {
            shared.outbox.add(timed(signals), System.nanoTime());
            shared.notifyAll();
        }
    }

    /** What became of the signals so far. */
    public Stats stats() {
        synchronized (shared) {
            Outbox out = shared.outbox;
            StreamSignalsResponse total = counted();
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
                    Link.run(channel, options.token(), hello, shared, this::take);
                    wait = isDone() ? Optional.empty() : Optional.of(Duration.ZERO);
                } catch (StatusRuntimeException error) {
                    channel.shutdownNow();
                    channel = null;
                    wait = failed(error);
                } catch (IOException roots) {
                    wait = failed(Status.INVALID_ARGUMENT.withDescription("the certificates cannot be used").asRuntimeException());
                }
                synchronized (shared) {
                    past = counted();
                    told = StreamSignalsResponse.getDefaultInstance();
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

    /** True when the client leaves and nothing waits any more. */
    private boolean isDone() {
        synchronized (shared) {
            return shared.leaving != null && shared.outbox.pending() == 0;
        }
    }

    /** What the server counted, over all streams. */
    private StreamSignalsResponse counted() {
        return StreamSignalsResponse.newBuilder()
                .setAccepted(past.getAccepted() + told.getAccepted())
                .setDuplicates(past.getDuplicates() + told.getDuplicates())
                .setRejected(past.getRejected() + told.getRejected())
                .setMissed(past.getMissed() + told.getMissed())
                .build();
    }

    /** Notes an answer. It says what became of the whole stream, so it takes the place of the one before. */
    private void take(StreamSignalsResponse answer) {
        long rejected;
        synchronized (shared) {
            long acked = shared.outbox.ackedSeq();
            shared.outbox.acknowledge(answer.getAckedSeq());
            if (shared.outbox.ackedSeq() > acked) {
                backoff.reset();
            }
            rejected = answer.getRejected() - told.getRejected();
            told = answer;
        }
        List<Rejection> rejections = answer.getRejectionsList();
        for (Rejection r : rejections.subList(0, Math.min(rejections.size(), 3))) {
            options.log().accept(String.format(
                    "rejected: %s %s, got `%s` (%s)", r.getField(), r.getRule(), r.getValue(), r.getReason()));
        }
        if (rejected > 3) {
            options.log().accept("rejected: " + rejected + " signals in all");
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
            PushSignalsResponse last = summary.get();
            take(StreamSignalsResponse.newBuilder()
                    .setAckedSeq(last.getHighWaterSeq())
                    .setAccepted(last.getAccepted())
                    .setDuplicates(last.getDuplicates())
                    .setRejected(last.getRejected())
                    .setMissed(last.getMissed())
                    .build());
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
