import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from agentctl_signals.probes import HostProbe, HttpProbe, ProcessProbe, quantile


def test_quantiles_are_values_that_were_seen():
    values = [0.3, 0.1, 0.2, 0.4]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.5)) == (0.2, 0.4, 7.0)


def fake_proc(tmp_path, busy, idle, ticks=0, started=5, pid="42"):
    (tmp_path / "stat").write_text(f"cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n")
    (tmp_path / pid).mkdir(exist_ok=True)
    # A name can hold brackets and spaces.
    words = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 6, str(started), "0", "10", "0"]
    (tmp_path / pid / "stat").write_text(f"{pid} (a) b) {' '.join(words)}\n")
    return tmp_path


def test_the_host_is_busy_by_what_changed_since_the_last_look(tmp_path):
    probe = HostProbe(fake_proc(tmp_path, 100, 100))
    first = probe.look()
    assert (first.cpu, first.memory) == (None, 0.75), "one look knows no share"
    fake_proc(tmp_path, 175, 125)
    assert probe.look().cpu == 0.75


def test_a_process_is_measured_against_its_limits_and_a_new_one_begins_anew(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    fake_proc(tmp_path, 1, 1)
    probe = ProcessProbe("42", cpus=2, memory=100 * os.sysconf("SC_PAGE_SIZE"), proc=tmp_path)
    assert probe.look(now=0.0).cpu is None
    fake_proc(tmp_path, 1, 1, ticks=ticks)
    usage = probe.look(now=1.0)
    assert (usage.cpu, usage.memory) == (0.5, 0.1), "one of two cores for one second"
    fake_proc(tmp_path, 1, 1, ticks=9, started=6)
    assert probe.look(now=2.0).cpu is None, "the same number, another process"


def test_a_process_that_is_gone_is_unknown_and_not_zero(tmp_path):
    file = tmp_path / "pid"
    probe = ProcessProbe(str(file))
    assert probe.look() is None, "nobody has written the file yet"
    file.write_text(f"{os.getpid()}\n")
    assert probe.look().memory > 0
    file.write_text("999999999")
    assert probe.look() is None


@pytest.fixture
def web():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(int(self.path.strip("/")))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_probe_counts_bad_answers_and_no_answers_as_errors(web):
    probe = HttpProbe(f"{web}/200", every=1, timeout=5)
    assert probe.take() is None, "nothing was asked: nothing is known"
    probe.ask()
    good = probe.take()
    assert good.error_ratio == 0 and 0 < good.p50 <= good.p99
    for url in (f"{web}/503", f"{web}/404", "http://127.0.0.1:1/"):
        bad = HttpProbe(url, every=1, timeout=5)
        bad.ask()
        assert bad.take().error_ratio == 1, url
