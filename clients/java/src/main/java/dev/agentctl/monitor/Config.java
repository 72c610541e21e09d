package dev.agentctl.monitor;

import dev.agentctl.signals.BadTarget;
import dev.agentctl.signals.Target;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The command line; the four monitors have the same. Null and 0 mean that it was not given. */
record Config(
        String app,
        String env,
        String instance,
        Target target,
        String token,
        String id,
        String url,
        String pid,
        double cpus,
        long memory,
        boolean host,
        Duration every,
        Duration probeEvery,
        Duration probeTimeout) {

    static final String HELP = """
            Tells agentd how an app does.

            Usage: agentctl-monitor --app APP --env ENV [--url URL] [--pid PID|FILE] [--host] [OPTIONS]

              --app APP             app, as it was onboarded
              --env ENV             environment the server serves
              --instance N          instance, such as 0 [default: the app as a whole]
              --address ADDRESS     HOST:PORT or https://HOST:PORT [default: AGENTCTL_ADDRESS, then 127.0.0.1:7443]
              --token-file FILE     file with the token, mode 0600 [default: AGENTCTL_TOKEN_FILE, then AGENTCTL_TOKEN]
              --tls-ca FILE         certificate authority of the server, PEM
              --plaintext           talk plain text to another host
              --id ID               who reports [default: monitor-HOST]
              --url URL             ask this URL for latency and errors
              --pid PID|FILE        CPU and memory of this process
              --cpus N              cores the process may use [default: all]
              --memory-mib N        memory the process may use [default: all]
              --host                CPU and memory of the machine: it is the app's own
              --every TIME          time between signals [default: 5s]
              --probe-every TIME    time between requests [default: 500ms]
              --probe-timeout TIME  longest wait for an answer [default: 5s]
            """;

    private static final Set<String> VALUES = Set.of(
            "--app", "--env", "--instance", "--address", "--token-file", "--tls-ca", "--id", "--url", "--pid", "--cpus",
            "--memory-mib", "--every", "--probe-every", "--probe-timeout");
    private static final Set<String> FLAGS = Set.of("--plaintext", "--host");
    private static final Pattern SPAN = Pattern.compile("([0-9]+(?:\\.[0-9]+)?)(ms|s|m)");

    /** Reads the command line. */
    static Config of(String[] args, Map<String, String> environment) throws BadTarget {
        Map<String, String> given = new HashMap<>();
        for (int index = 0; index < args.length; index++) {
            String[] parts = args[index].split("=", 2);
            if (FLAGS.contains(args[index])) {
                given.put(args[index], "");
            } else if (!VALUES.contains(parts[0])) {
                throw new BadTarget("unknown argument `" + parts[0] + "`");
            } else if (parts.length == 2) {
                given.put(parts[0], parts[1]);
            } else if (++index < args.length) {
                given.put(parts[0], args[index]);
            } else {
                throw new BadTarget(parts[0] + " needs a value");
            }
        }
        String url = given.get("--url");
        String pid = given.get("--pid");
        boolean host = given.containsKey("--host");
        if (!given.containsKey("--app") || !given.containsKey("--env")) {
            throw new BadTarget("--app and --env are required");
        }
        if (url == null && pid == null && !host) {
            throw new BadTarget("nothing to measure: add --url, --pid or --host");
        }
        if (pid != null && host) {
            throw new BadTarget("--pid and --host both say whose CPU is the app's, leave out one of them");
        }
        String address = environment.getOrDefault("AGENTCTL_ADDRESS", "127.0.0.1:7443");
        Path roots = given.containsKey("--tls-ca") ? Path.of(given.get("--tls-ca")) : null;
        String id = given.containsKey("--id") ? given.get("--id") : "monitor-" + hostname();
        return new Config(
                given.get("--app"),
                given.get("--env"),
                given.getOrDefault("--instance", ""),
                Target.parse(given.getOrDefault("--address", address), roots, given.containsKey("--plaintext")),
                Target.readToken(given.get("--token-file"), environment),
                id.substring(0, Math.min(id.length(), 64)),
                url,
                pid,
                positive("--cpus", given.get("--cpus")),
                (long) (positive("--memory-mib", given.get("--memory-mib")) * 1024 * 1024),
                host,
                span(given.getOrDefault("--every", "5s")),
                span(given.getOrDefault("--probe-every", "500ms")),
                span(given.getOrDefault("--probe-timeout", "5s")));
    }

    private static String hostname() {
        try {
            return InetAddress.getLocalHost().getHostName();
        } catch (UnknownHostException unknown) {
            return "unknown";
        }
    }

    private static Duration span(String text) throws BadTarget {
        Matcher match = SPAN.matcher(text);
        double number = match.matches() ? Double.parseDouble(match.group(1)) : 0;
        if (number == 0) {
            throw new BadTarget("invalid time `" + text + "`, expected such as 500ms, 5s or 1m");
        }
        double unit = switch (match.group(2)) {
            case "ms" -> 1e6;
            case "s" -> 1e9;
            default -> 60e9;
        };
        return Duration.ofNanos(Math.max(1, (long) (number * unit)));
    }

    private static double positive(String name, String text) throws BadTarget {
        if (text == null) {
            return 0;
        }
        try {
            double value = Double.parseDouble(text);
            if (value > 0 && Double.isFinite(value)) {
                return value;
            }
        } catch (NumberFormatException notOne) {
            // Told below.
        }
        throw new BadTarget("invalid " + name + " `" + text + "`, expected a number above 0");
    }

    /** The token stays out of every log. */
    @Override
    public String toString() {
        return "Config[" + id + " watches " + app + "]";
    }
}
