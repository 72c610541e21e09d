"""Connections grow old: monitors in every language go on over new ones, and nothing of what they say is lost or counted twice."""

import json
import signal

from conftest import DEADLINE, App, start_monitor, wait_for


def test_every_monitor_goes_on_over_a_new_connection_when_its_own_is_old(server_of, languages, tmp_path):
    config = tmp_path / "agentd.toml"
    config.write_text('[limits]\nmax_connection_age = "1s"\nconnection_grace = "100ms"\n')
    server = server_of({language: ["web"] for language in languages}, "--config", str(config))
    App(server, "web", 8140)
    logs = {language: tmp_path / f"{language}.log" for language in languages}
    words = ("--app", "web", "--host", "--every", "100ms", "--token-file")
    monitors = {
        language: start_monitor(server, language, *words, server.token_file(language), log=log) for language, log in logs.items()
    }

    def said() -> str:
        return server.log()[-4000:] + "".join(log.read_text()[-2000:] for log in logs.values())

    wait_for("all of them are there", lambda: server.status()["monitors"] == len(monitors), said)
    before = server.counted("old_connections")
    wait_for("each connection grew old", lambda: server.counted("old_connections") >= before + 3 * len(monitors), said)
    for language, monitor in monitors.items():
        monitor.send_signal(signal.SIGTERM)
        out, _ = monitor.communicate(timeout=DEADLINE)
        told = json.loads(out)
        assert monitor.returncode == 0, f"{language}: {told}\n{logs[language].read_text()}"
        assert told["acked_seq"] == told["last_seq"], f"{language}: {told}"
        lost = {name: told[name] for name in ("pending", "dropped", "rejected", "missed")}
        assert not any(lost.values()), f"{language}: {lost}"
        # What was judged in the last moment of a stream is acknowledged by the cursor of the next one.
        assert 0 < told["accepted"] + told["duplicates"] <= told["acked_seq"], f"{language}: {told}"
        assert told["lost_streams"] >= 1, f"{language} was never sent away: {told}"
