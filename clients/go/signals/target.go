package signals

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Target is where the server is, and whether the way there is encrypted.
type Target struct {
	// Authority is host:port.
	Authority string
	// TLS says whether the connection is encrypted.
	TLS bool
	// Roots are trusted instead of those of this host; nil: those of this host.
	Roots *x509.CertPool
}

// ParseTarget reads HOST:PORT or https://HOST:PORT. Plain text goes to this host alone, unless it is asked for.
func ParseTarget(address, tlsCA string, plaintext bool) (Target, error) {
	invalid := fmt.Errorf("invalid address `%s`, expected HOST:PORT or https://HOST:PORT", address)
	scheme, authority, found := strings.Cut(address, "://")
	if !found {
		scheme, authority = "", address
	}
	if scheme != "" && scheme != "http" && scheme != "https" {
		return Target{}, invalid
	}
	host, port, err := net.SplitHostPort(authority)
	if err != nil || host == "" || strings.ContainsAny(host, "@/ ") {
		return Target{}, invalid
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return Target{}, invalid
	}
	wantsTLS := scheme == "https" || tlsCA != ""
	if plaintext && wantsTLS {
		return Target{}, errors.New("plain text and TLS at once, leave out one of them")
	}
	if !wantsTLS && !plaintext && !isLoopback(host) {
		if scheme == "http" {
			return Target{}, errors.New("the token would cross the network in plain text, use https:// or -plaintext")
		}
		wantsTLS = true
	}
	target := Target{Authority: authority, TLS: wantsTLS}
	if tlsCA != "" {
		pem, err := os.ReadFile(tlsCA)
		if err != nil {
			return Target{}, fmt.Errorf("cannot read `%s`: %w", tlsCA, err)
		}
		target.Roots = x509.NewCertPool()
		if !target.Roots.AppendCertsFromPEM(pem) {
			return Target{}, fmt.Errorf("`%s` holds no certificate in PEM", tlsCA)
		}
	}
	return target, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// dial makes a new connection, which comes up when it is first used.
func (t Target) dial() (*grpc.ClientConn, error) {
	secure := insecure.NewCredentials()
	if t.TLS {
		secure = credentials.NewTLS(&tls.Config{RootCAs: t.Roots, MinVersion: tls.VersionTLS12})
	}
	return grpc.NewClient("passthrough:///"+t.Authority,
		grpc.WithTransportCredentials(secure),
		// How long to wait is decided in one place, which is not the connection.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.Config{MaxDelay: time.Second}, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		// A server that is gone without a word is noticed within 30 seconds.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
}

// ReadToken finds the token: in the file tokenFile, or in the file AGENTCTL_TOKEN_FILE names, or in AGENTCTL_TOKEN.
func ReadToken(tokenFile string, env func(string) string) (string, error) {
	path := tokenFile
	if path == "" {
		path = env("AGENTCTL_TOKEN_FILE")
	}
	token, origin := strings.TrimSpace(env("AGENTCTL_TOKEN")), "AGENTCTL_TOKEN"
	if path != "" {
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("cannot read the token file: %w", err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			return "", fmt.Errorf("`%s` can be read by others (mode %04o), run `chmod 600 %s`", path, mode, path)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("cannot read the token file: %w", err)
		}
		token, origin = strings.TrimSpace(string(content)), "`"+path+"`"
	} else if token == "" {
		return "", errors.New("no token: name a file with -token-file, or set AGENTCTL_TOKEN")
	}
	hidden := func(r rune) bool { return r < '!' || r > '~' }
	if token == "" || len(token) > 512 || strings.ContainsFunc(token, hidden) {
		return "", fmt.Errorf("%s holds no token, expected one line such as agt_…", origin)
	}
	return token, nil
}
