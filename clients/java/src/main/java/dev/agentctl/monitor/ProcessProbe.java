package dev.agentctl.monitor;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalDouble;

/** One process against limits: cores, and bytes of memory; 0: those of the machine. */
final class ProcessProbe {
    /** Ticks per second in /proc; Linux has had no other number for user space in decades. */
    static final int TICKS = 100;

    private record Seen(String pid, String started, long ticks, long at) {}

    private final String pid;
    private final double cpus;
    private final long memory;
    private final Path proc;
    private Seen last;

    /** {@code pid} is a number, or a file that holds one and is read at each look: whoever restarts the process writes it. */
    ProcessProbe(String pid, double cpus, long memory, Path proc) {
        this.pid = pid;
        this.cpus = cpus > 0 ? cpus : Runtime.getRuntime().availableProcessors();
        this.memory = memory;
        this.proc = proc;
    }

    /** The usage at {@code now} nanoseconds; empty when the process is gone. */
    Optional<Usage> look(long now) throws IOException {
        String id;
        String stat;
        String status;
        try {
            id = pid.matches("[0-9]+") ? pid : Files.readString(Path.of(pid)).strip();
            stat = Proc.read(proc.resolve(id).resolve("stat"));
            status = Proc.read(proc.resolve(id).resolve("status"));
        } catch (NoSuchFileException | FileNotFoundException gone) {
            last = null;
            return Optional.empty();
        } catch (IOException error) {
            // Read while it ended: Linux says that there is no such process.
            if (!String.valueOf(error.getMessage()).contains("No such process")) {
                throw error;
            }
            last = null;
            return Optional.empty();
        }
        // The name in brackets may hold anything, so what counts begins behind the last bracket.
        String[] words = stat.substring(stat.lastIndexOf(')') + 1).strip().split("\\s+");
        if (words[0].equals("Z")) {
            last = null;
            return Optional.empty();
        }
        long ticks = Long.parseLong(words[11]) + Long.parseLong(words[12]);
        OptionalDouble cpu = OptionalDouble.empty();
        // The same number with another start time is another process.
        if (last != null && last.pid().equals(id) && last.started().equals(words[19]) && now > last.at()) {
            double seconds = (now - last.at()) / 1e9;
            cpu = OptionalDouble.of((double) (ticks - last.ticks()) / TICKS / seconds / cpus);
        }
        last = new Seen(id, words[19], ticks, now);
        long limit = memory > 0 ? memory : Proc.memory(proc, "MemTotal");
        return Optional.of(new Usage(cpu, OptionalDouble.of((double) Proc.bytes(status, "VmRSS").orElse(0) / limit)));
    }
}
