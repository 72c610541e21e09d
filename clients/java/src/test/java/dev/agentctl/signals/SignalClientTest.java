package dev.agentctl.signals;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.agentctl.v1.PushSignalsRequest;
import dev.agentctl.v1.PushSignalsResponse;
import dev.agentctl.v1.Signal;
import dev.agentctl.v1.TelemetryServiceGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.BooleanSupplier;
import java.util.function.UnaryOperator;
import java.util.stream.LongStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class SignalClientTest {
    /** A status, and after how many messages a stream ends with it. */
    private record Failure(int after, Status.Code code, Message... details) {}

    /** What a real server cannot be asked to do: it fails as the script says, and then takes everything. */
    private final ArrayDeque<Failure> script = new ArrayDeque<>();

    private final List<List<PushSignalsRequest>> streams = new CopyOnWriteArrayList<>();
    private final List<String> lines = Collections.synchronizedList(new ArrayList<>());
    private Server server;

    @BeforeEach
    void start() throws Exception {
        server = Grpc.newServerBuilderForPort(0, InsecureServerCredentials.create())
                .addService(new Fake())
                .build()
                .start();
    }

    @AfterEach
    void stop() {
        server.shutdownNow();
    }

    private final class Fake extends TelemetryServiceGrpc.TelemetryServiceImplBase {
        @Override
        public StreamObserver<PushSignalsRequest> pushSignals(StreamObserver<PushSignalsResponse> answer) {
            Failure failure = script.poll();
            List<PushSignalsRequest> stream = new CopyOnWriteArrayList<>();
            streams.add(stream);
            if (failure != null && failure.after() == 0) {
                answer.onError(told(failure));
            }
            return new StreamObserver<>() {
                @Override
                public void onNext(PushSignalsRequest message) {
                    stream.add(message);
                    if (failure != null && stream.size() == failure.after()) {
                        answer.onError(told(failure));
                    }
                }

                @Override
                public void onError(Throwable error) {}

                @Override
                public void onCompleted() {
                    if (failure == null) {
                        long highest = streams.stream().flatMap(s -> batches(s).stream()).reduce(0L, Long::max);
                        answer.onNext(PushSignalsResponse.newBuilder().setHighWaterSeq(highest).build());
                        answer.onCompleted();
                    }
                }
            };
        }
    }

    private static Throwable told(Failure failure) {
        com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder()
                .setCode(failure.code().value())
                .setMessage("no");
        for (Message detail : failure.details()) {
            status.addDetails(Any.pack(detail));
        }
        return StatusProto.toStatusRuntimeException(status.build());
    }

    private static List<Long> batches(List<PushSignalsRequest> stream) {
        return stream.stream().filter(PushSignalsRequest::hasBatch).map(m -> m.getBatch().getSeq()).toList();
    }

    private SignalClient client(UnaryOperator<Options> change) throws BadTarget {
        Target target = Target.parse("127.0.0.1:" + server.getPort(), null, false);
        Options options = new Options(target, "agt_x", "stage", "edge").withAckEvery(Duration.ofSeconds(30));
        return new SignalClient(change.apply(options.withLog(lines::add)));
    }

    private static Signal reading() {
        return Signal.newBuilder().setApp("web").setCpuUtilization(0.5).build();
    }

    private static boolean close(SignalClient client) {
        return client.close("done", Duration.ofSeconds(20));
    }

    private static void until(BooleanSupplier is) throws InterruptedException {
        while (!is.getAsBoolean()) {
            Thread.sleep(5);
        }
    }

    @Test
    void aStreamHasHelloNumberedBatchesAndAGoodbye() throws Exception {
        SignalClient client = client(options -> options.withTtl(Duration.ofSeconds(3)));
        client.push(reading());
        client.push(reading(), reading());
        assertTrue(close(client));
        List<PushSignalsRequest> stream = streams.get(0);
        assertEquals("edge", stream.get(0).getHello().getMonitorId());
        assertEquals("stage", stream.get(0).getHello().getEnvironment());
        assertEquals(3, stream.get(0).getHello().getDefaultTtl().getSeconds());
        assertNotEquals(0, stream.get(0).getHello().getEpoch());
        assertEquals(List.of(1L, 2L), batches(stream));
        assertTrue(stream.get(1).getBatch().getSignals(0).hasTime());
        assertEquals("done", stream.get(3).getBye().getReason());
    }

    @Test
    void whatWasNotAcknowledgedIsSentAgainUnderItsNumber() throws Exception {
        script.add(new Failure(3, Status.Code.UNAVAILABLE));
        SignalClient client = client(options -> options);
        for (int n = 0; n < 4; n++) {
            client.push(reading());
        }
        assertTrue(close(client));
        assertEquals(List.of(1L, 2L), batches(streams.get(0)).subList(0, 2));
        assertEquals(List.of(1L, 2L, 3L, 4L), batches(streams.get(1)), "the summary never came, so all of it");
        assertEquals(
                streams.get(0).get(0).getHello().getEpoch(), streams.get(1).get(0).getHello().getEpoch());
        assertEquals(new Stats(4, 4, 0, 0, 0, 0, 0, 0, 1), client.stats());
    }

    @Test
    void aSummaryNowAndThenEmptiesTheBuffer() throws Exception {
        SignalClient client = client(options -> options.withBuffer(4));
        for (int n = 0; n < 12; n++) {
            client.push(reading());
            // Half full is the moment to ask; nothing is lost as long as the server answers.
            until(() -> client.stats().pending() <= 2);
        }
        assertTrue(close(client));
        assertTrue(streams.size() > 1);
        List<Long> all = streams.stream().flatMap(stream -> batches(stream).stream()).toList();
        assertEquals(LongStream.rangeClosed(1, 12).boxed().toList(), all);
        assertEquals(0, client.stats().dropped());
    }

    @Test
    void aServerThatIsAwayCostsTheOldestAndNothingElse() throws Exception {
        for (int n = 0; n < 3; n++) {
            script.add(new Failure(0, Status.Code.UNAVAILABLE));
        }
        SignalClient client = client(options -> options.withBuffer(5));
        for (int n = 0; n < 20; n++) {
            client.push(reading());
        }
        assertTrue(close(client));
        Set<Long> got = new HashSet<>();
        streams.subList(3, streams.size()).forEach(stream -> got.addAll(batches(stream)));
        assertTrue(got.contains(20L));
        assertEquals(20 - got.size(), client.stats().dropped());
    }

    @Test
    void aRefusalIsFinalAndSaysWhy() throws Exception {
        ErrorInfo info = ErrorInfo.newBuilder().setReason("ROLE_REQUIRED").build();
        script.add(new Failure(0, Status.Code.PERMISSION_DENIED, info));
        SignalClient client = client(options -> options);
        client.push(reading());
        assertFalse(close(client));
        assertEquals(new Refused(Status.Code.PERMISSION_DENIED, "no", "ROLE_REQUIRED"), client.refusal().orElseThrow());
        assertEquals(1, streams.size());
    }

    @Test
    void aStreamCutForBadSignalsDoesNotEndTheNextOneToo() throws Exception {
        PushSignalsResponse summary = PushSignalsResponse.newBuilder().setHighWaterSeq(1).setRejected(100).build();
        script.add(new Failure(2, Status.Code.INVALID_ARGUMENT, summary));
        SignalClient client = client(options -> options);
        client.push(reading());
        until(() -> client.stats().rejected() == 100);
        client.push(reading());
        assertTrue(close(client));
        assertEquals(List.of(2L), batches(streams.get(1)), "only what is new");
    }

    @Test
    void theServerSaysHowLongToWait() throws Exception {
        RetryInfo retry = RetryInfo.newBuilder().setRetryDelay(SignalClient.wire(Duration.ofMillis(700))).build();
        script.add(new Failure(0, Status.Code.RESOURCE_EXHAUSTED, retry));
        SignalClient client = client(options -> options);
        client.push(reading());
        assertTrue(close(client));
        assertEquals(List.of("lost: no; again in 0.7 s"), lines);
    }
}
