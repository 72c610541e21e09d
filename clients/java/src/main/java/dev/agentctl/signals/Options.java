package dev.agentctl.signals;

import java.time.Duration;
import java.util.function.Consumer;

/**
 * Who pushes where.
 *
 * @param target where the server is
 * @param token who we are to it
 * @param environment environment the server serves
 * @param monitorId stable across restarts of the monitor
 * @param ttl how long a signal counts as fresh; null: as the server has it. A shorter life makes the agent less sure of it
 * @param buffer signals kept while they are not acknowledged; the oldest give way
 * @param maxAge what waited longer is dropped: the server takes nothing older than five minutes
 * @param log told in one line what happens to the connection and to the signals
 */
public record Options(
        Target target,
        String token,
        String environment,
        String monitorId,
        Duration ttl,
        int buffer,
        Duration maxAge,
        Consumer<String> log) {

    /** With the defaults: 10,000 signals, four minutes, no log. */
    public Options(Target target, String token, String environment, String monitorId) {
        this(target, token, environment, monitorId, null, 10_000, Duration.ofMinutes(4), line -> {});
    }

    /** The same with another log. */
    public Options withLog(Consumer<String> log) {
        return new Options(target, token, environment, monitorId, ttl, buffer, maxAge, log);
    }

    /** The same with another time to live. */
    public Options withTtl(Duration ttl) {
        return new Options(target, token, environment, monitorId, ttl, buffer, maxAge, log);
    }

    /** The same with another buffer. */
    public Options withBuffer(int buffer) {
        return new Options(target, token, environment, monitorId, ttl, buffer, maxAge, log);
    }

    /** The token stays out of every log. */
    @Override
    public String toString() {
        return "Options[" + monitorId + " to " + target.authority() + ", " + environment + "]";
    }
}
