package dev.agentctl.monitor;

import dev.agentctl.signals.BadTarget;
import dev.agentctl.signals.Options;
import dev.agentctl.signals.Refused;
import dev.agentctl.signals.SignalClient;
import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * A small monitor: measures a host, a process and an HTTP endpoint, and tells agentd what it saw of one app.
 *
 * <pre>java -jar monitor.jar --app my-api --env stage --url http://127.0.0.1:8080/healthz</pre>
 */
public final class Monitor {
    /** Exit codes are those of agentctl. */
    private static final int USAGE = 2;

    private static final int NOT_FOUND = 3;
    private static final int FORBIDDEN = 4;
    private static final int UNREACHABLE = 8;

    private Monitor() {}

    /** Runs until TERM or Ctrl-C. The last line on stdout is what became of the signals, as JSON. */
    public static void main(String[] args) throws InterruptedException {
        if (List.of(args).contains("--help")) {
            System.out.print(Config.HELP);
            return;
        }
        Config config;
        try {
            config = Config.of(args, System.getenv());
        } catch (BadTarget error) {
            log(error.getMessage());
            System.exit(USAGE);
            return;
        }
        CountDownLatch stop = new CountDownLatch(1);
        CountDownLatch done = new CountDownLatch(1);
        int[] code = {0};
        // The JVM ends when its hooks have returned, with a code of its own: so the hook says goodbye, and ends it with ours.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stop.countDown();
            try {
                if (done.await(7, TimeUnit.SECONDS)) {
                    Runtime.getRuntime().halt(code[0]);
                }
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
        code[0] = watch(config, stop);
        done.countDown();
        System.exit(code[0]);
    }

    private static int watch(Config config, CountDownLatch stop) throws InterruptedException {
        Options options = new Options(config.target(), config.token(), config.env(), config.id()).withLog(Monitor::log);
        SignalClient client = new SignalClient(options);
        Measure measure = new Measure(config);
        while (!stop.await(config.every().toNanos(), TimeUnit.NANOSECONDS) && client.refusal().isEmpty()) {
            try {
                client.push(measure.look());
            } catch (IOException error) {
                log("cannot measure: " + error.getMessage());
            }
        }
        boolean complete = client.close("stopped", Duration.ofSeconds(5));
        System.out.println(client.stats().toJson());
        System.out.flush();
        Optional<Refused> refused = client.refusal();
        if (refused.isEmpty()) {
            return complete ? 0 : UNREACHABLE;
        }
        return switch (refused.get().code()) {
            case NOT_FOUND -> NOT_FOUND;
            case INVALID_ARGUMENT -> USAGE;
            default -> FORBIDDEN;
        };
    }

    private static void log(String line) {
        System.err.println("agentctl-monitor: " + line);
    }
}
