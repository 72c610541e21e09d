"""How a monitor starts and ends: trust, tokens, and exit codes that are those of agentctl, the same in all four languages."""

import json
import signal
import subprocess

import pytest
from conftest import DEADLINE, MONITORS, App, start_monitor, wait_for


@pytest.fixture(params=MONITORS)
def language(request, languages):
    if request.param not in languages:
        pytest.skip(f"LANGUAGES leaves out {request.param}")
    return request.param


def test_a_monitor_ends_with_a_code_and_a_sentence_that_say_why(server_of, language, tmp_path):
    server = server_of({"edge": ["web"]})
    edge, local = server.token_file("edge"), server.token_file("local")
    quick = ("--app", "web", "--host", "--every", "100ms")
    cases = {
        "a token for everybody to see": ((*quick, "--token", "agt_x"), 2, "-token"),
        "another environment": ((*quick, "--token-file", edge, "--env", "prod"), 3, "prod"),
        "no monitor": ((*quick, "--token-file", local), 4, "ROLE_REQUIRED"),
        "a token nobody knows": (quick, 4, "TOKEN_INVALID"),
    }
    log = tmp_path / "unreachable.log"
    started = [
        start_monitor(server, language, *words, log=tmp_path / what, AGENTCTL_TOKEN=f"agt_{'0' * 64}")
        for what, (words, _, _) in cases.items()
    ]
    for monitor, (what, (_, code, says)) in zip(started, cases.items(), strict=True):
        out, _ = monitor.communicate(timeout=DEADLINE)
        told = (tmp_path / what).read_text()
        assert (monitor.returncode, says in told) == (code, True), f"{what}: {told}"
        assert code == 2 or json.loads(out)["acked_seq"] == 0, what
    server.kill9()
    monitor = start_monitor(server, language, *quick, "--token-file", edge, log=log)
    wait_for("it tries again and again", lambda: log.read_text().count("again in") > 2)
    monitor.send_signal(signal.SIGTERM)
    out, _ = monitor.communicate(timeout=DEADLINE)
    assert (monitor.returncode, json.loads(out)["acked_seq"]) == (8, 0), "told and not acknowledged: unreachable"


def authority(directory, name):
    """A certificate authority, and a certificate for this host with its key that it signed."""
    ca, cert, key = directory / f"{name}.pem", directory / f"{name}-host.pem", directory / f"{name}-host.key"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    own = ["-subj", f"/CN={name}", "-keyout", directory / f"{name}.key", "-out", ca]
    host = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE", "-CA", ca, "-CAkey", directory / f"{name}.key",
            "-keyout", key, "-out", cert]  # fmt: skip
    for words in (own, host):
        subprocess.run([*new, *words], check=True, capture_output=True)
    key.chmod(0o600)
    return ca, cert, key


def test_signals_go_over_tls_to_the_server_that_is_trusted_and_to_no_other(server_of, languages, tmp_path):
    trusted, cert, key = authority(tmp_path, "trusted")
    stranger, _, _ = authority(tmp_path, "stranger")
    server = server_of({"edge": ["web"]}, "--tls-cert", str(cert), "--tls-key", str(key))
    server.trust = ["--tls-ca", str(trusted)]
    App(server, "web", 8092)
    for language in languages:
        words = ("--app", "web", "--host", "--every", "100ms")
        token = server.token_file("edge").read_text()
        logs = [tmp_path / f"{language}-{ca.stem}.log" for ca in (trusted, stranger)]
        good, bad = (
            start_monitor(server, language, *words, "--tls-ca", ca, log=log, AGENTCTL_TOKEN=token)
            for ca, log in zip((trusted, stranger), logs, strict=True)
        )
        wait_for("trusted", lambda: server.status()["monitors"] == 1, logs[0].read_text)
        wait_for("not trusted", lambda log=logs[1]: log.read_text().count("again in") > 2)
        assert server.status()["monitors"] == 1, f"{language} went on without trust"
        bad.kill()
        good.send_signal(signal.SIGTERM)
        out, _ = good.communicate(timeout=DEADLINE)
        assert (good.returncode, json.loads(out)["accepted"] > 0) == (0, True), logs[0].read_text()
        bad.communicate(timeout=DEADLINE)
