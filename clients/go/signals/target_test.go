package signals

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPlainTextStaysOnThisHost(t *testing.T) {
	for _, c := range []struct {
		address   string
		plaintext bool
		authority string
		tls       bool
	}{
		{"127.0.0.1:7443", false, "127.0.0.1:7443", false},
		{"[::1]:7443", false, "[::1]:7443", false},
		{"localhost:7443", false, "localhost:7443", false},
		{"https://localhost:7443", false, "localhost:7443", true},
		{"agentd.example:7443", false, "agentd.example:7443", true},
		{"agentd.example:7443", true, "agentd.example:7443", false},
	} {
		target, err := ParseTarget(c.address, "", c.plaintext)
		if err != nil || target.Authority != c.authority || target.TLS != c.tls {
			t.Errorf("%s: %+v, %v", c.address, target, err)
		}
	}
}

func TestWhatIsNoAddressIsRefusedWithItsValue(t *testing.T) {
	for _, address := range []string{"", "web", "web:", "web:0x50", "web:99999", "ftp://web:1", "a@web:1", "web:1/x"} {
		if _, err := ParseTarget(address, "", false); err == nil || !strings.Contains(err.Error(), "invalid address") {
			t.Errorf("%s: %v", address, err)
		}
	}
	_, err := ParseTarget("http://agentd.example:7443", "", false)
	if err == nil || !strings.Contains(err.Error(), "plain text") {
		t.Errorf("a token does not cross the network in plain text by accident: %v", err)
	}
}

func tokenFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for index := 0; index < len(pairs); index += 2 {
			if pairs[index] == name {
				return pairs[index+1]
			}
		}
		return ""
	}
}

func TestATokenComesFromAFileOrFromTheEnvironment(t *testing.T) {
	file := tokenFile(t, "agt_file\n", 0o600)
	for _, c := range []struct {
		flag string
		env  func(string) string
		want string
	}{
		{file, env("AGENTCTL_TOKEN", "agt_env"), "agt_file"},
		{"", env("AGENTCTL_TOKEN", "agt_env"), "agt_env"},
		{"", env("AGENTCTL_TOKEN", "agt_env", "AGENTCTL_TOKEN_FILE", file), "agt_file"},
	} {
		if token, err := ReadToken(c.flag, c.env); err != nil || token != c.want {
			t.Errorf("`%s`, %v instead of %s", token, err, c.want)
		}
	}
	if _, err := ReadToken("", env()); err == nil || !strings.Contains(err.Error(), "no token") {
		t.Error(err)
	}
}

func TestATokenFileThatOthersCanReadIsNotUsed(t *testing.T) {
	_, err := ReadToken(tokenFile(t, "agt_x", 0o644), env())
	if err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Error(err)
	}
}

func TestWhatIsNoTokenIsNeverSentAndNeverShown(t *testing.T) {
	for _, content := range []string{"", "two words", "agt_\x1b[31m", "\xff\xfe", strings.Repeat("x", 600)} {
		_, err := ReadToken(tokenFile(t, content, 0o600), env())
		if err == nil || !strings.Contains(err.Error(), "holds no token") || strings.Contains(err.Error(), "words") {
			t.Errorf("%q: %v", content, err)
		}
	}
}
