package dev.agentctl.signals;

import dev.agentctl.v1.Bye;
import dev.agentctl.v1.PushSignalsRequest;
import dev.agentctl.v1.PushSignalsResponse;
import dev.agentctl.v1.Signal;
import dev.agentctl.v1.SignalBatch;
import dev.agentctl.v1.TelemetryServiceGrpc;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;

/** Pushes signals over one stream of PushSignals and returns what became of them: for a program that does not stay. */
public final class PushOnce {
    private PushOnce() {}

    /**
     * Pushes {@code signals}. It is tried once.
     *
     * @throws StatusRuntimeException as gRPC has it
     */
    public static PushSignalsResponse push(Options options, Duration timeout, Signal... signals)
            throws IOException, InterruptedException {
        ManagedChannel channel = options.target().channel();
        try {
            Answer answer = new Answer();
            StreamObserver<PushSignalsRequest> call = TelemetryServiceGrpc.newStub(channel)
                    .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(Link.authorization(options.token())))
                    .withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS)
                    .pushSignals(answer);
            send(call, options, SignalClient.timed(signals));
            return answer.found.get();
        } catch (ExecutionException failed) {
            throw Status.fromThrowable(failed.getCause())
                    .asRuntimeException(Status.trailersFromThrowable(failed.getCause()));
        } finally {
            channel.shutdownNow();
        }
    }

    private static void send(StreamObserver<PushSignalsRequest> call, Options options, List<Signal> signals) {
        Outbox outbox = new Outbox(signals.size(), 1);
        outbox.add(signals, 0);
        call.onNext(PushSignalsRequest.newBuilder().setHello(SignalClient.hello(options)).build());
        for (Optional<Outbox.Batch> next = outbox.after(0, 0); next.isPresent(); next = outbox.after(next.get().seq(), 0)) {
            SignalBatch.Builder batch = SignalBatch.newBuilder()
                    .setSeq(next.get().seq())
                    .setSentTime(Link.now())
                    .addAllSignals(next.get().signals());
            call.onNext(PushSignalsRequest.newBuilder().setBatch(batch).build());
        }
        call.onNext(PushSignalsRequest.newBuilder().setBye(Bye.newBuilder().setReason("done")).build());
        call.onCompleted();
    }

    private static final class Answer implements StreamObserver<PushSignalsResponse> {
        private final CompletableFuture<PushSignalsResponse> found = new CompletableFuture<>();

        @Override
        public void onNext(PushSignalsResponse summary) {
            found.complete(summary);
        }

        @Override
        public void onError(Throwable error) {
            found.completeExceptionally(error);
        }

        @Override
        public void onCompleted() {
            found.completeExceptionally(Status.INTERNAL.withDescription("no summary").asRuntimeException());
        }
    }
}
