package dev.agentctl.monitor;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Reads what Linux tells about itself below /proc. */
final class Proc {
    private Proc() {}

    /** A file as text; a name in it may be anything but UTF-8. */
    static String read(Path file) throws IOException {
        return Files.readString(file, StandardCharsets.ISO_8859_1);
    }

    /** The value of a line such as {@code MemTotal:  12 kB}, in bytes. */
    static OptionalLong bytes(String text, String name) {
        Matcher match = Pattern.compile("(?m)^" + name + ":\\s+([0-9]+) kB").matcher(text);
        return match.find() ? OptionalLong.of(Long.parseLong(match.group(1)) * 1024) : OptionalLong.empty();
    }

    /** As {@link #bytes}, of a line that is always there. */
    static long memory(Path proc, String name) throws IOException {
        String text = read(proc.resolve("meminfo"));
        return bytes(text, name).orElseThrow(() -> new IOException("meminfo has no " + name));
    }
}
