package dev.agentctl.monitor;

import dev.agentctl.signals.SignalClient;
import dev.agentctl.v1.Signal;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Optional;

/** Turns what the probes see into signals. */
final class Measure {
    /** A share of the host above which it is said to be under pressure. */
    private static final double PRESSURE = 0.9;

    private static final Path PROC = Path.of("/proc");

    private final Config config;
    private final HostProbe host = new HostProbe(PROC);
    private final ProcessProbe process;
    private final HttpProbe http;

    Measure(Config config) {
        this.config = config;
        process = config.pid() == null ? null : new ProcessProbe(config.pid(), config.cpus(), config.memory(), PROC);
        http = config.url() == null ? null : new HttpProbe(config.url(), config.probeTimeout());
        if (http != null) {
            http.start(config.probeEvery());
        }
    }

    /** One signal. What is not known is left out: absent is never zero. */
    Signal look() throws IOException {
        Signal.Builder seen = Signal.newBuilder().setApp(config.app()).setInstance(config.instance());
        Usage machine = host.look();
        // How the host does says nothing about the app by itself, so it travels as a hint beside the numbers.
        machine.cpu().ifPresent(share -> seen.putConditions("host_cpu_high", share >= PRESSURE));
        machine.memory().ifPresent(share -> seen.putConditions("host_memory_high", share >= PRESSURE));
        Usage usage = config.host() ? machine : Usage.UNKNOWN;
        if (process != null) {
            Optional<Usage> found = process.look(System.nanoTime());
            seen.putConditions("process_running", found.isPresent());
            usage = found.orElse(Usage.UNKNOWN);
        }
        usage.cpu().ifPresent(share -> seen.setCpuUtilization(Math.max(share, 0)));
        usage.memory().ifPresent(share -> seen.setMemoryUtilization(Math.max(share, 0)));
        Optional<HttpProbe.Answers> answers = http == null ? Optional.empty() : http.take();
        answers.ifPresent(told -> {
            Duration window = told.window().compareTo(Duration.ofMillis(1)) < 0 ? Duration.ofMillis(1) : told.window();
            seen.setLatencyP50Seconds(told.p50())
                    .setLatencyP99Seconds(told.p99())
                    .setErrorRatio(told.errorRatio())
                    .setWindow(SignalClient.wire(window));
        });
        return seen.build();
    }
}
