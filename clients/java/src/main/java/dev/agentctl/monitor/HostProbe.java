package dev.agentctl.monitor;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.OptionalDouble;

/** The machine. CPU is the busy share since the last look, so the first look knows none. */
final class HostProbe {
    private final Path proc;
    private long lastTotal;
    private long lastIdle;

    HostProbe(Path proc) {
        this.proc = proc;
    }

    /** The usage now. */
    Usage look() throws IOException {
        String line = Proc.read(proc.resolve("stat")).lines().findFirst().orElse("");
        long[] values = Arrays.stream(line.split("\\s+")).skip(1).limit(8).mapToLong(Long::parseLong).toArray();
        if (values.length < 8) {
            throw new IOException("unexpected line `" + line + "` in stat");
        }
        long total = Arrays.stream(values).sum();
        long idle = values[3] + values[4];
        OptionalDouble cpu = OptionalDouble.empty();
        if (lastTotal > 0 && total > lastTotal) {
            cpu = OptionalDouble.of(1 - (double) (idle - lastIdle) / (total - lastTotal));
        }
        lastTotal = total;
        lastIdle = idle;
        double free = (double) Proc.memory(proc, "MemAvailable") / Proc.memory(proc, "MemTotal");
        return new Usage(cpu, OptionalDouble.of(1 - free));
    }
}
