package dev.agentctl.monitor;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.sun.net.httpserver.HttpServer;
import dev.agentctl.signals.BadTarget;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ProbesTest {
    @TempDir
    Path dir;

    /** Writes a /proc with a host and the process 42. */
    private void proc(int busy, int idle, int ticks, int started) throws Exception {
        Files.createDirectories(dir.resolve("42"));
        Files.writeString(dir.resolve("stat"), "cpu " + busy + " 0 0 " + idle + " 0 0 0 0 0 0\ncpu0 1 1 1 1\n");
        Files.writeString(dir.resolve("meminfo"), "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n");
        // A name can hold brackets and spaces.
        String stat = "42 (a) b) S" + " 0".repeat(10) + " " + ticks + " 0" + " 0".repeat(6) + " " + started + " 0 10 0\n";
        Files.writeString(dir.resolve("42/stat"), stat);
        Files.writeString(dir.resolve("42/status"), "Name:\ta) b\nVmRSS:\t     100 kB\n");
    }

    @Test
    void theHostIsBusyByWhatChangedSinceTheLastLook() throws Exception {
        proc(100, 100, 0, 5);
        HostProbe probe = new HostProbe(dir);
        assertEquals(new Usage(OptionalDouble.empty(), OptionalDouble.of(0.75)), probe.look(), "one look knows no share");
        proc(175, 125, 0, 5);
        assertEquals(OptionalDouble.of(0.75), probe.look().cpu());
    }

    @Test
    void aProcessIsMeasuredAgainstItsLimitsAndANewOneBeginsAnew() throws Exception {
        proc(1, 1, 0, 5);
        ProcessProbe probe = new ProcessProbe("42", 2, 1_000 * 1_024, dir);
        OptionalDouble memory = OptionalDouble.of(0.1);
        assertEquals(Optional.of(new Usage(OptionalDouble.empty(), memory)), probe.look(0));
        proc(1, 1, ProcessProbe.TICKS, 5);
        Usage busy = new Usage(OptionalDouble.of(0.5), memory);
        assertEquals(Optional.of(busy), probe.look(1_000_000_000), "one of two cores for one second");
        proc(1, 1, 9, 6);
        assertTrue(probe.look(2_000_000_000).orElseThrow().cpu().isEmpty(), "the same number, another process");
    }

    @Test
    void aProcessThatIsGoneIsUnknownAndNotZero() throws Exception {
        Path file = dir.resolve("pid");
        ProcessProbe probe = new ProcessProbe(file.toString(), 0, 0, Path.of("/proc"));
        assertTrue(probe.look(0).isEmpty(), "nobody has written the file yet");
        Files.writeString(file, ProcessHandle.current().pid() + "\n");
        assertTrue(probe.look(1).orElseThrow().memory().orElseThrow() > 0);
        Files.writeString(file, "999999999");
        assertTrue(probe.look(2).isEmpty());
    }

    @Test
    void aProbeCountsBadAnswersAndNoAnswersAsErrors() throws Exception {
        HttpServer web = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
        web.createContext("/", exchange -> {
            exchange.sendResponseHeaders(Integer.parseInt(exchange.getRequestURI().getPath().substring(1)), -1);
            exchange.close();
        });
        web.start();
        String base = "http://127.0.0.1:" + web.getAddress().getPort();
        HttpProbe probe = new HttpProbe(base + "/200", Duration.ofSeconds(5));
        assertTrue(probe.take().isEmpty(), "nothing was asked: nothing is known");
        probe.ask();
        HttpProbe.Answers good = probe.take().orElseThrow();
        assertTrue(good.errorRatio() == 0 && good.p50() > 0 && good.p99() >= good.p50(), good.toString());
        for (String url : List.of(base + "/503", base + "/404", "http://127.0.0.1:1/", "nonsense")) {
            HttpProbe bad = new HttpProbe(url, Duration.ofSeconds(5));
            bad.ask();
            assertEquals(1, bad.take().orElseThrow().errorRatio(), url);
        }
        web.stop(0);
    }

    @Test
    void quantilesAreValuesThatWereSeen() {
        List<Double> values = List.of(0.1, 0.2, 0.3, 0.4);
        assertEquals(0.2, HttpProbe.quantile(values, 0.5));
        assertEquals(0.4, HttpProbe.quantile(values, 0.99));
        assertEquals(7.0, HttpProbe.quantile(List.of(7.0), 0.5));
    }

    @ParameterizedTest
    @CsvSource({
        "--app web --env stage --url x --token agt_x,--token",
        "--app web --env stage,nothing to measure",
        "--app web --env stage --host --pid 1,leave out one",
        "--app web --env stage --host --every 5,invalid time",
        "--app web --env stage --host --every,needs a value",
        "--app web --host,required",
    })
    void aWrongCommandLineIsAnsweredWithWhatToDo(String line, String says) {
        Map<String, String> environment = Map.of("AGENTCTL_TOKEN", "agt_x");
        BadTarget error = assertThrows(BadTarget.class, () -> Config.of(line.split(" "), environment));
        assertTrue(error.getMessage().contains(says), error.getMessage());
    }
}
