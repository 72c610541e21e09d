package dev.agentctl.signals;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class TargetTest {
    @TempDir
    Path dir;

    private String tokenFile(byte[] content, String mode) throws IOException {
        Path file = Files.createTempFile(dir, "token", "");
        Files.write(file, content);
        Files.setPosixFilePermissions(file, PosixFilePermissions.fromString(mode));
        return file.toString();
    }

    @ParameterizedTest
    @CsvSource({
        "127.0.0.1:7443,false,127.0.0.1:7443,false",
        "[::1]:7443,false,[::1]:7443,false",
        "localhost:7443,false,localhost:7443,false",
        "https://localhost:7443,false,localhost:7443,true",
        "agentd.example:7443,false,agentd.example:7443,true",
        "agentd.example:7443,true,agentd.example:7443,false",
    })
    void plainTextStaysOnThisHost(String address, boolean plaintext, String authority, boolean tls) throws BadTarget {
        Target target = Target.parse(address, null, plaintext);
        assertEquals(authority, target.authority());
        assertEquals(tls, target.tls());
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "web", "web:", "web:0x50", "web:99999", "ftp://web:1", "a@web:1", "web:1/x"})
    void whatIsNoAddressIsRefusedWithItsValue(String address) {
        BadTarget error = assertThrows(BadTarget.class, () -> Target.parse(address, null, false));
        assertTrue(error.getMessage().contains("invalid address `" + address + "`"), error.getMessage());
    }

    @Test
    void aTokenDoesNotCrossTheNetworkInPlainTextByAccident() {
        BadTarget error = assertThrows(BadTarget.class, () -> Target.parse("http://agentd.example:7443", null, false));
        assertTrue(error.getMessage().contains("plain text"));
    }

    @Test
    void aTokenComesFromAFileOrFromTheEnvironment() throws Exception {
        String file = tokenFile("agt_file\n".getBytes(), "rw-------");
        assertEquals("agt_file", Target.readToken(file, Map.of("AGENTCTL_TOKEN", "agt_env")));
        assertEquals("agt_env", Target.readToken(null, Map.of("AGENTCTL_TOKEN", "agt_env")));
        Map<String, String> both = Map.of("AGENTCTL_TOKEN", "agt_env", "AGENTCTL_TOKEN_FILE", file);
        assertEquals("agt_file", Target.readToken(null, both));
        BadTarget none = assertThrows(BadTarget.class, () -> Target.readToken(null, Map.of()));
        assertTrue(none.getMessage().contains("no token"));
    }

    @Test
    void aTokenFileThatOthersCanReadIsNotUsed() throws Exception {
        String file = tokenFile("agt_x".getBytes(), "rw-r--r--");
        BadTarget error = assertThrows(BadTarget.class, () -> Target.readToken(file, Map.of()));
        assertTrue(error.getMessage().contains("chmod 600"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "two words", "agt_\u001b[31m", "\u00ff\u00fe"})
    void whatIsNoTokenIsNeverSentAndNeverShown(String content) throws Exception {
        for (String text : new String[] {content, content + "x".repeat(600)}) {
            String file = tokenFile(text.getBytes(), "rw-------");
            BadTarget error = assertThrows(BadTarget.class, () -> Target.readToken(file, Map.of()));
            assertTrue(error.getMessage().contains("holds no token"));
            assertFalse(error.getMessage().contains("words"));
        }
    }
}
