package dev.agentctl.signals;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.agentctl.v1.PushSignalsRequest;
import dev.agentctl.v1.PushSignalsResponse;
import dev.agentctl.v1.Signal;
import dev.agentctl.v1.StreamSignalsRequest;
import dev.agentctl.v1.StreamSignalsResponse;
import dev.agentctl.v1.TelemetryServiceGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
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
import java.util.concurrent.CountDownLatch;
import java.util.function.BooleanSupplier;
import java.util.function.UnaryOperator;
import java.util.stream.LongStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(60)
class SignalClientTest {
    /**
     * How a stream goes: what is answered to its messages, and the status it ends with behind them.
     *
     * @param forgets it forgets what it heard, as a server does that is started again
     * @param first waited for before the first answer
     */
    private record Script(
            List<StreamSignalsResponse> answers, Status.Code code, boolean forgets, CountDownLatch first, Message... details) {
        Script(List<StreamSignalsResponse> answers, Status.Code code, Message... details) {
            this(answers, code, false, new CountDownLatch(0), details);
        }
    }

    private static final StreamSignalsResponse NOTHING = StreamSignalsResponse.getDefaultInstance();

    /** What a real server cannot be asked to do: it does as the scripts say, and then takes everything. */
    private final ArrayDeque<Script> scripts = new ArrayDeque<>();

    private final List<List<StreamSignalsRequest>> streams = new CopyOnWriteArrayList<>();
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
        public StreamObserver<StreamSignalsRequest> streamSignals(StreamObserver<StreamSignalsResponse> answer) {
            Stream stream = new Stream(answer, scripts.poll());
            streams.add(stream.messages);
            if (stream.script != null && stream.script.answers().isEmpty()) {
                stream.finish();
            }
            return stream;
        }

        @Override
        public StreamObserver<PushSignalsRequest> pushSignals(StreamObserver<PushSignalsResponse> answer) {
            PushSignalsResponse.Builder summary = PushSignalsResponse.newBuilder();
            return new StreamObserver<>() {
                @Override
                public void onNext(PushSignalsRequest message) {
                    summary.setHighWaterSeq(Math.max(summary.getHighWaterSeq(), message.getBatch().getSeq()));
                    summary.setAccepted(summary.getAccepted() + message.getBatch().getSignalsCount());
                }

                @Override
                public void onError(Throwable error) {}

                @Override
                public void onCompleted() {
                    answer.onNext(summary.build());
                    answer.onCompleted();
                }
            };
        }
    }

    /** One stream, as the server sees it. */
    private final class Stream implements StreamObserver<StreamSignalsRequest> {
        private final List<StreamSignalsRequest> messages = new CopyOnWriteArrayList<>();
        private final StreamObserver<StreamSignalsResponse> answer;
        private final Script script;
        private boolean over;

        Stream(StreamObserver<StreamSignalsResponse> answer, Script script) {
            this.answer = answer;
            this.script = script;
        }

        @Override
        public void onNext(StreamSignalsRequest message) {
            if (over) {
                return;
            }
            messages.add(message);
            int place = messages.size();
            if (script == null) {
                // As the real one: where to go on, what it has, and a last word.
                long highest = streams.stream().flatMap(s -> batches(s).stream()).reduce(0L, Long::max);
                answer.onNext(acked(highest).toBuilder().setClosed(message.hasBye()).build());
            } else {
                await(script.first());
                answer.onNext(script.answers().get(place - 1));
            }
            if (message.hasBye() || script != null && place == script.answers().size()) {
                finish();
            }
        }

        void finish() {
            over = true;
            if (script != null && script.forgets()) {
                messages.subList(1, messages.size()).clear();
            }
            if (script == null || script.code() == null) {
                answer.onCompleted();
            } else {
                answer.onError(told(script));
            }
        }

        @Override
        public void onError(Throwable error) {}

        @Override
        public void onCompleted() {}
    }

    private static StreamSignalsResponse acked(long seq) {
        return StreamSignalsResponse.newBuilder().setAckedSeq(seq).build();
    }

    private static void await(CountDownLatch latch) {
        try {
            latch.await();
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static Throwable told(Script script) {
        com.google.rpc.Status.Builder status = com.google.rpc.Status.newBuilder()
                .setCode(script.code().value())
                .setMessage("no");
        for (Message detail : script.details()) {
            status.addDetails(Any.pack(detail));
        }
        return StatusProto.toStatusRuntimeException(status.build());
    }

    private static List<Long> batches(List<StreamSignalsRequest> stream) {
        return stream.stream().filter(StreamSignalsRequest::hasBatch).map(m -> m.getBatch().getSeq()).toList();
    }

    private SignalClient client(UnaryOperator<Options> change) throws BadTarget {
        Target target = Target.parse("127.0.0.1:" + server.getPort(), null, false);
        Options options = new Options(target, "agt_x", "stage", "edge");
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
        List<StreamSignalsRequest> stream = streams.get(0);
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
        List<StreamSignalsResponse> nothing = List.of(NOTHING, NOTHING, NOTHING);
        scripts.add(new Script(nothing, Status.Code.UNAVAILABLE, true, new CountDownLatch(0)));
        SignalClient client = client(options -> options);
        for (int n = 0; n < 4; n++) {
            client.push(reading());
        }
        assertTrue(close(client));
        assertEquals(List.of(1L, 2L, 3L, 4L), batches(streams.get(1)), "nothing was acknowledged, so all of it");
        assertEquals(
                streams.get(0).get(0).getHello().getEpoch(), streams.get(1).get(0).getHello().getEpoch());
        assertEquals(new Stats(4, 4, 0, 0, 0, 0, 0, 0, 1), client.stats());
    }

    @Test
    void whatTheServerHasIsNotSentAgain() throws Exception {
        scripts.add(new Script(List.of(NOTHING, NOTHING, NOTHING), Status.Code.UNAVAILABLE));
        SignalClient client = client(options -> options);
        for (int n = 0; n < 4; n++) {
            client.push(reading());
        }
        assertTrue(close(client));
        List<Long> all = streams.stream().flatMap(stream -> batches(stream).stream()).toList();
        assertEquals(List.of(1L, 2L, 3L, 4L), all, "the first answer is the cursor");
    }

    @Test
    void nothingIsSentBeforeTheServerHasSaidWhereToGoOn() throws Exception {
        CountDownLatch pushed = new CountDownLatch(1);
        StreamSignalsResponse last = acked(3).toBuilder().setClosed(true).build();
        scripts.add(new Script(List.of(acked(2), acked(3), last), null, false, pushed));
        SignalClient client = client(options -> options);
        for (int n = 0; n < 3; n++) {
            client.push(reading());
        }
        pushed.countDown();
        assertTrue(close(client));
        assertEquals(List.of(3L), batches(streams.get(0)), "the server said that it has two of them");
    }

    @Test
    void answersEmptyTheBufferAsTheStreamGoes() throws Exception {
        SignalClient client = client(options -> options.withBuffer(4));
        for (int n = 0; n < 12; n++) {
            client.push(reading());
            until(() -> client.stats().pending() <= 2);
        }
        assertTrue(close(client));
        assertEquals(1, streams.size());
        assertEquals(LongStream.rangeClosed(1, 12).boxed().toList(), batches(streams.get(0)));
        assertEquals(0, client.stats().dropped());
    }

    @Test
    void countsAreOfAllStreamsAndOfEachAnswerOnce() throws Exception {
        StreamSignalsResponse one = acked(1).toBuilder().setAccepted(1).setRejected(1).build();
        StreamSignalsResponse two = acked(2).toBuilder().setAccepted(2).setRejected(1).build();
        StreamSignalsResponse three = acked(3).toBuilder().setAccepted(1).build();
        scripts.add(new Script(List.of(NOTHING, one, two), Status.Code.UNAVAILABLE));
        scripts.add(new Script(List.of(acked(2), three, three.toBuilder().setClosed(true).build()), null));
        SignalClient client = client(options -> options);
        for (int n = 0; n < 3; n++) {
            client.push(reading());
        }
        assertTrue(close(client));
        assertEquals(new Stats(3, 3, 0, 0, 3, 0, 1, 0, 1), client.stats());
    }

    @Test
    void anEndWithoutAnAnswerToTheGoodbyeIsALoss() throws Exception {
        scripts.add(new Script(List.of(NOTHING), null));
        SignalClient client = client(options -> options);
        client.push(reading());
        assertTrue(close(client));
        assertEquals(1, client.stats().lostStreams());
        assertTrue(lines.get(0).startsWith("lost: the stream ended without a goodbye; again in "), lines.get(0));
    }

    @Test
    void aProgramThatDoesNotStayPushesOnce() throws Exception {
        Target target = Target.parse("127.0.0.1:" + server.getPort(), null, false);
        Options options = new Options(target, "agt_x", "stage", "edge");
        Signal[] many = Collections.nCopies(1_001, reading()).toArray(Signal[]::new);
        PushSignalsResponse summary = PushOnce.push(options, Duration.ofSeconds(20), many);
        assertEquals(2, summary.getHighWaterSeq(), "as few batches as the limits of the server allow");
        assertEquals(1_001, summary.getAccepted());
        Options nobody = new Options(Target.parse("127.0.0.1:1", null, false), "agt_x", "stage", "edge");
        StatusRuntimeException error = assertThrows(
                StatusRuntimeException.class, () -> PushOnce.push(nobody, Duration.ofSeconds(20), reading()));
        assertEquals(Status.Code.UNAVAILABLE, error.getStatus().getCode());
    }

    @Test
    void aServerThatIsAwayCostsTheOldestAndNothingElse() throws Exception {
        for (int n = 0; n < 3; n++) {
            scripts.add(new Script(List.of(), Status.Code.UNAVAILABLE));
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
        scripts.add(new Script(List.of(), Status.Code.PERMISSION_DENIED, info));
        SignalClient client = client(options -> options);
        client.push(reading());
        assertFalse(close(client));
        assertEquals(new Refused(Status.Code.PERMISSION_DENIED, "no", "ROLE_REQUIRED"), client.refusal().orElseThrow());
        assertEquals(1, streams.size());
    }

    @Test
    void aStreamCutForBadSignalsDoesNotEndTheNextOneToo() throws Exception {
        PushSignalsResponse summary = PushSignalsResponse.newBuilder().setHighWaterSeq(1).setRejected(100).build();
        scripts.add(new Script(List.of(NOTHING, acked(1).toBuilder().setRejected(60).build()), Status.Code.INVALID_ARGUMENT, summary));
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
        scripts.add(new Script(List.of(), Status.Code.RESOURCE_EXHAUSTED, retry));
        SignalClient client = client(options -> options);
        client.push(reading());
        assertTrue(close(client));
        assertEquals(List.of("lost: no; again in 0.7 s"), lines);
    }
}
