"""A small monitor: measures a host, a process and an HTTP endpoint, and tells agentd what it saw of one app.

    python -m agentctl_signals.monitor --app my-api --env stage --url http://127.0.0.1:8080/healthz
"""

import argparse
import dataclasses
import json
import os
import re
import signal
import socket
import sys
import threading

import grpc

from . import BadTarget, Options, Signal, SignalClient, Target, read_token
from .probes import HostProbe, HttpProbe, ProcessProbe

# Exit codes are those of agentctl.
USAGE, NOT_FOUND, FORBIDDEN, UNREACHABLE = 2, 3, 4, 8
# A share of the host above which it is said to be under pressure.
PRESSURE = 0.9


def span(text: str) -> float:
    """`500ms`, `5s` or `1m` in seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)", text)
    if not match or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"invalid time `{text}`, expected such as 500ms, 5s or 1m")
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[match[2]]


def parser() -> argparse.ArgumentParser:
    """The command line; the four monitors have the same."""
    p = argparse.ArgumentParser(prog="agentctl-monitor", description="Tells agentd how an app does.", allow_abbrev=False)
    p.add_argument("--app", required=True, help="app, as it was onboarded")
    p.add_argument("--env", required=True, help="environment the server serves")
    p.add_argument("--instance", default="", help="instance, such as 0 [default: the app as a whole]")
    p.add_argument("--address", default=os.environ.get("AGENTCTL_ADDRESS", "127.0.0.1:7443"),
                   help="HOST:PORT or https://HOST:PORT [default: AGENTCTL_ADDRESS, then 127.0.0.1:7443]")
    p.add_argument("--token-file", metavar="FILE",
                   help="file with the token, mode 0600 [default: AGENTCTL_TOKEN_FILE, then AGENTCTL_TOKEN]")
    p.add_argument("--tls-ca", metavar="FILE", help="certificate authority of the server, PEM")
    p.add_argument("--plaintext", action="store_true", help="talk plain text to another host")
    p.add_argument("--id", default=f"monitor-{socket.gethostname()}"[:64], help="who reports [default: monitor-HOST]")
    p.add_argument("--url", help="ask this URL for latency and errors")
    p.add_argument("--pid", metavar="PID|FILE", help="CPU and memory of this process")
    p.add_argument("--cpus", type=float, help="cores the process may use [default: all]")
    p.add_argument("--memory-mib", type=float, help="memory the process may use [default: all]")
    p.add_argument("--host", action="store_true", help="CPU and memory of the machine: it is the app's own")
    p.add_argument("--every", type=span, default=5.0, help="time between signals [default: 5s]")
    p.add_argument("--probe-every", type=span, default=0.5, help="time between requests [default: 500ms]")
    p.add_argument("--probe-timeout", type=span, default=5.0, help="longest wait for an answer [default: 5s]")
    return p  # fmt: skip


class Measure:
    """Turns what the probes see into signals."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._app, self._instance, self._host_is_app = args.app, args.instance, args.host
        self._host = HostProbe()
        memory = int(args.memory_mib * 1024 * 1024) if args.memory_mib else None
        self._process = ProcessProbe(args.pid, args.cpus, memory) if args.pid else None
        self._http = HttpProbe(args.url, args.probe_every, args.probe_timeout) if args.url else None
        if self._http:
            self._http.start()

    def look(self) -> Signal:
        """One signal. What is not known is left out: absent is never zero."""
        seen = Signal(app=self._app, instance=self._instance)
        host = self._host.look()
        usage = host if self._host_is_app else None
        # How the host does says nothing about the app by itself, so it travels as a hint beside the numbers.
        if host.cpu is not None:
            seen.conditions["host_cpu_high"] = host.cpu >= PRESSURE
        seen.conditions["host_memory_high"] = host.memory >= PRESSURE
        if self._process:
            usage = self._process.look()
            seen.conditions["process_running"] = usage is not None
        if usage and usage.cpu is not None:
            seen.cpu_utilization = max(usage.cpu, 0.0)
        if usage and usage.memory is not None:
            seen.memory_utilization = max(usage.memory, 0.0)
        answers = self._http.take() if self._http else None
        if answers:
            seen.latency_p50_seconds, seen.latency_p99_seconds = answers.p50, answers.p99
            seen.error_ratio = answers.error_ratio
            seen.window.FromMilliseconds(max(1, round(answers.window * 1000)))
        return seen


def main(argv: list[str] | None = None) -> int:
    """Runs until TERM or Ctrl-C. The last line on stdout is what became of the signals, as JSON."""
    p = parser()
    args = p.parse_args(argv)
    if not (args.url or args.pid or args.host):
        p.error("nothing to measure: add --url, --pid or --host")
    if args.pid and args.host:
        p.error("--pid and --host both say whose CPU is the app's, leave out one of them")

    def log(line: str) -> None:
        print(f"agentctl-monitor: {line}", file=sys.stderr, flush=True)

    try:
        target = Target.parse(args.address, args.tls_ca, args.plaintext)
        token = read_token(args.token_file)
    except BadTarget as error:
        log(str(error))
        return USAGE
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    client = SignalClient(Options(target, token, args.env, args.id, log=log))
    measure = Measure(args)
    while client.refusal() is None and not stop.wait(args.every):
        try:
            client.push(measure.look())
        except OSError as error:
            log(f"cannot measure: {error}")
    complete = client.close("stopped")
    refused = client.refusal()
    print(json.dumps(dataclasses.asdict(client.stats())), flush=True)
    if refused is not None:
        codes = {grpc.StatusCode.NOT_FOUND: NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT: USAGE}
        return codes.get(refused.code, FORBIDDEN)
    return 0 if complete else UNREACHABLE


if __name__ == "__main__":
    sys.exit(main())
