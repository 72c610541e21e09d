package dev.agentctl.signals;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermission;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Where the server is, and whether the way there is encrypted. */
public final class Target {
    private static final Pattern ADDRESS =
            Pattern.compile("(?:(https?)://)?(([A-Za-z0-9._-]+|\\[[0-9A-Fa-f:.]+\\]):([0-9]{1,5}))");
    private static final Pattern TOKEN = Pattern.compile("[!-~]{1,512}");
    private static final Set<PosixFilePermission> OWNER = PosixFilePermissions.fromString("rwx------");

    private final String authority;
    private final boolean tls;
    private final byte[] roots;

    private Target(String authority, boolean tls, byte[] roots) {
        this.authority = authority;
        this.tls = tls;
        this.roots = roots;
    }

    /**
     * Reads {@code HOST:PORT} or {@code https://HOST:PORT}. Plain text goes to this host alone, unless it is asked for.
     *
     * @param tlsCa certificates to trust instead of those of this host, PEM; null: those of this host
     */
    public static Target parse(String address, Path tlsCa, boolean plaintext) throws BadTarget {
        Matcher match = ADDRESS.matcher(address);
        int port = match.matches() ? Integer.parseInt(match.group(4)) : 0;
        if (port < 1 || port > 65_535) {
            throw new BadTarget("invalid address `" + address + "`, expected HOST:PORT or https://HOST:PORT");
        }
        boolean tls = "https".equals(match.group(1)) || tlsCa != null;
        if (plaintext && tls) {
            throw new BadTarget("plain text and TLS at once, leave out one of them");
        }
        if (!tls && !plaintext && !isLoopback(match.group(3))) {
            if ("http".equals(match.group(1))) {
                throw new BadTarget("the token would cross the network in plain text, use https:// or --plaintext");
            }
            tls = true;
        }
        return new Target(match.group(2), tls, tlsCa == null ? null : read(tlsCa));
    }

    private static boolean isLoopback(String host) {
        return host.equals("localhost") || host.equals("[::1]") || host.matches("127(\\.[0-9]{1,3}){3}");
    }

    private static byte[] read(Path path) throws BadTarget {
        try {
            return Files.readAllBytes(path);
        } catch (IOException error) {
            throw new BadTarget("cannot read `" + path + "`: " + error.getClass().getSimpleName());
        }
    }

    /** {@code host:port}. */
    public String authority() {
        return authority;
    }

    /** Whether the connection is encrypted. */
    public boolean tls() {
        return tls;
    }

    /** A new connection, made when it is first used. */
    ManagedChannel channel() throws IOException {
        ChannelCredentials credentials = InsecureChannelCredentials.create();
        if (tls) {
            TlsChannelCredentials.Builder builder = TlsChannelCredentials.newBuilder();
            if (roots != null) {
                builder.trustManager(new ByteArrayInputStream(roots));
            }
            credentials = builder.build();
        }
        return Grpc.newChannelBuilder(authority, credentials)
                // How long to wait is decided in one place, which is not the channel.
                .disableRetry()
                .proxyDetector(address -> null)
                // A server that is gone without a word is noticed within 30 seconds.
                .keepAliveTime(20, TimeUnit.SECONDS)
                .keepAliveTimeout(10, TimeUnit.SECONDS)
                .build();
    }

    /** The token in {@code tokenFile}, or in the file AGENTCTL_TOKEN_FILE names, or in AGENTCTL_TOKEN. */
    public static String readToken(String tokenFile, Map<String, String> env) throws BadTarget {
        String path = tokenFile != null ? tokenFile : env.get("AGENTCTL_TOKEN_FILE");
        String token = path == null ? env.getOrDefault("AGENTCTL_TOKEN", "") : readPrivate(Path.of(path));
        token = token.strip();
        if (path == null && token.isEmpty()) {
            throw new BadTarget("no token: name a file with --token-file, or set AGENTCTL_TOKEN");
        }
        if (!TOKEN.matcher(token).matches()) {
            String origin = path == null ? "AGENTCTL_TOKEN" : "`" + path + "`";
            throw new BadTarget(origin + " holds no token, expected one line such as agt_…");
        }
        return token;
    }

    private static String readPrivate(Path path) throws BadTarget {
        try {
            Set<PosixFilePermission> permissions = Files.getPosixFilePermissions(path);
            if (!OWNER.containsAll(permissions)) {
                String mode = PosixFilePermissions.toString(permissions);
                throw new BadTarget(
                        "`" + path + "` can be read by others (mode " + mode + "), run `chmod 600 " + path + "`");
            }
        } catch (IOException error) {
            throw new BadTarget("cannot read `" + path + "`: " + error.getClass().getSimpleName());
        }
        return new String(read(path), StandardCharsets.ISO_8859_1);
    }
}
