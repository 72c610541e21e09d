package dev.agentctl.monitor;

import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.Proxy;
import java.net.URI;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** Asks one URL again and again, one request at a time. Anything but 2xx and 3xx, and no answer, is an error. */
final class HttpProbe {
    /** What a span of probes saw; times in seconds. */
    record Answers(double p50, double p99, double errorRatio, Duration window) {}

    private record Seen(double took, boolean good) {}

    private final String url;
    private final Duration timeout;
    private List<Seen> seen = new ArrayList<>();
    private long since = System.nanoTime();

    HttpProbe(String url, Duration timeout) {
        this.url = url;
        this.timeout = timeout;
    }

    /** Probes from now on, in a thread of its own that ends with the program. */
    void start(Duration every) {
        Thread thread = new Thread(() -> run(every), "http-probe");
        thread.setDaemon(true);
        thread.start();
    }

    private void run(Duration every) {
        try {
            while (true) {
                long next = System.nanoTime() + every.toNanos();
                ask();
                Thread.sleep(Math.max(0, (next - System.nanoTime()) / 1_000_000));
            }
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** One probe. No answer in time counts as an answer that took that long. */
    void ask() {
        long begun = System.nanoTime();
        boolean good = request();
        double took = (System.nanoTime() - begun) / 1e9;
        synchronized (this) {
            seen.add(new Seen(took, good));
            if (seen.size() > 1000) {
                seen.remove(0);
            }
        }
    }

    private boolean request() {
        HttpURLConnection connection = null;
        try {
            // The target is asked itself, whatever proxy this host has for the rest of the world.
            connection = (HttpURLConnection) URI.create(url).toURL().openConnection(Proxy.NO_PROXY);
            connection.setConnectTimeout((int) timeout.toMillis());
            connection.setReadTimeout((int) timeout.toMillis());
            connection.setUseCaches(false);
            // Each probe connects anew, as a client would that comes by.
            connection.setRequestProperty("connection", "close");
            int code = connection.getResponseCode();
            if (code < 200 || code >= 400) {
                return false;
            }
            try (InputStream body = connection.getInputStream()) {
                body.readNBytes(64 * 1024);
            }
            return true;
        } catch (IOException | IllegalArgumentException | ClassCastException error) {
            return false;
        } finally {
            if (connection != null) {
                connection.disconnect();
            }
        }
    }

    /** What was seen since the last call; empty when nothing was. */
    synchronized Optional<Answers> take() {
        long now = System.nanoTime();
        List<Seen> taken = seen;
        Duration window = Duration.ofNanos(now - since);
        seen = new ArrayList<>();
        since = now;
        if (taken.isEmpty()) {
            return Optional.empty();
        }
        List<Double> times = taken.stream().map(Seen::took).sorted().toList();
        double bad = taken.stream().filter(one -> !one.good()).count();
        return Optional.of(new Answers(quantile(times, 0.5), quantile(times, 0.99), bad / taken.size(), window));
    }

    /** The smallest of the values, which are in order, that at least the share {@code q} of them does not exceed. */
    static double quantile(List<Double> ordered, double q) {
        return ordered.get(Math.max(0, (int) Math.ceil(q * ordered.size()) - 1));
    }
}
