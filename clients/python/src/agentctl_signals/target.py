"""Where the server is, whether the way there is encrypted, and who we are to it."""

import ipaddress
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc


class BadTarget(Exception):
    """The address or the token cannot be used; the text says what to do."""


@dataclass(frozen=True)
class Target:
    """`authority` is `host:port`; `roots` are PEM certificates to trust instead of those of this host."""

    authority: str
    tls: bool
    roots: bytes | None = None

    @classmethod
    def parse(cls, address: str, tls_ca: str | None = None, plaintext: bool = False) -> "Target":
        """`HOST:PORT` or `https://HOST:PORT`. Plain text goes to this host alone, unless it is asked for."""
        scheme, _, rest = address.rpartition("://")
        if scheme not in ("", "http", "https"):
            raise BadTarget(f"invalid address `{address}`, expected HOST:PORT or https://HOST:PORT")
        try:
            parts = urlsplit(f"//{rest}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or rest != parts.netloc or "@" in rest:
            raise BadTarget(f"invalid address `{address}`, expected HOST:PORT or https://HOST:PORT")
        wants_tls = scheme == "https" or tls_ca is not None
        if plaintext and wants_tls:
            raise BadTarget("plain text and TLS at once, leave out one of them")
        if not (wants_tls or plaintext or is_loopback(host)):
            if scheme == "http":
                raise BadTarget("the token would cross the network in plain text, use https:// or --plaintext")
            wants_tls = True
        try:
            roots = Path(tls_ca).read_bytes() if tls_ca else None
        except OSError as error:
            raise BadTarget(f"cannot read `{tls_ca}`: {error.strerror}") from error
        return cls(rest, wants_tls, roots)

    def channel(self) -> grpc.Channel:
        """A new connection, made when it is first used."""
        options = [
            # How long to wait is decided in one place, which is not the channel.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            # A server that is gone without a word is noticed within 30 seconds.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ]
        if not self.tls:
            return grpc.insecure_channel(self.authority, options)
        credentials = grpc.ssl_channel_credentials(root_certificates=self.roots)
        return grpc.secure_channel(self.authority, credentials, options)


def is_loopback(host: str) -> bool:
    """Whether `host` is this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(token_file: str | None, env=os.environ) -> str:
    """The token in `token_file`, or in the file AGENTCTL_TOKEN_FILE names, or in AGENTCTL_TOKEN."""
    path = token_file or env.get("AGENTCTL_TOKEN_FILE")
    if path:
        try:
            with open(path, encoding="ascii") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise BadTarget(f"`{path}` can be read by others (mode {mode:04o}), run `chmod 600 {path}`")
                token = file.read(4096).strip()
        except OSError as error:
            raise BadTarget(f"cannot read `{path}`: {error.strerror}") from error
        except UnicodeDecodeError:
            token = ""
        origin = f"`{path}`"
    else:
        token, origin = env.get("AGENTCTL_TOKEN", "").strip(), "AGENTCTL_TOKEN"
    if not token and not path:
        raise BadTarget("no token: name a file with --token-file, or set AGENTCTL_TOKEN")
    if not 1 <= len(token) <= 512 or not all("!" <= char <= "~" for char in token):
        raise BadTarget(f"{origin} holds no token, expected one line such as agt_…")
    return token
