"""What the monitor measures: the host and a process through /proc, and an app by asking it over HTTP."""

import math
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest of `values` that at least the share `q` of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


@dataclass(frozen=True)
class Usage:
    """Shares of the CPU and of the memory, 0 to 1 and more; None: not known."""

    cpu: float | None
    memory: float | None


class HostProbe:
    """The machine. CPU is the busy share since the last look, so the first look knows none."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._last: tuple[int, int] | None = None

    def look(self) -> Usage:
        """The usage now."""
        fields = [int(word) for word in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        total, idle = sum(fields), fields[3] + fields[4]
        cpu = None
        if self._last and total > self._last[0]:
            cpu = 1 - (idle - self._last[1]) / (total - self._last[0])
        self._last = (total, idle)
        memory = meminfo(self._proc)
        return Usage(cpu, 1 - memory["MemAvailable"] / memory["MemTotal"])


class ProcessProbe:
    """One process, against limits: `cpus` cores and `memory` bytes, those of the machine unless said otherwise.

    `pid` is a number, or a file that holds one and is read at each look: whoever restarts the process writes it.
    """

    def __init__(
        self, pid: str, cpus: float | None = None, memory: int | None = None, proc: Path = Path("/proc")
    ) -> None:
        self._pid, self._proc = pid, proc
        self._cpus = cpus or os.cpu_count() or 1
        self._memory = memory or meminfo(proc)["MemTotal"]
        self._last: tuple[str, str, int, float] | None = None

    def look(self, now: float | None = None) -> Usage | None:
        """The usage now; None when the process is gone."""
        now = time.monotonic() if now is None else now
        try:
            pid = self._pid if self._pid.isdigit() else Path(self._pid).read_text().strip()
            # The name in brackets may hold anything, so what counts begins behind the last bracket.
            words = (self._proc / pid / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            self._last = None
            return None
        state, ticks, started, pages = words[0], int(words[11]) + int(words[12]), words[19], int(words[21])
        if state == "Z":
            self._last = None
            return None
        cpu, last = None, self._last
        # The same number with another start time is another process.
        if last and last[:2] == (pid, started) and now > last[3]:
            cpu = (ticks - last[2]) / TICKS / (now - last[3]) / self._cpus
        self._last = (pid, started, ticks, now)
        return Usage(cpu, pages * PAGE / self._memory)


def meminfo(proc: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = (proc / "meminfo").read_text().splitlines()
    pairs = (line.split()[:2] for line in lines)
    return {name.rstrip(":"): int(value) * 1024 for name, value in pairs}


@dataclass(frozen=True)
class Answers:
    """What a span of HTTP probes saw."""

    p50: float
    p99: float
    error_ratio: float
    window: float


class HttpProbe:
    """Asks one URL again and again, one request at a time. Anything but 2xx and 3xx, and no answer, is an error."""

    def __init__(self, url: str, every: float, timeout: float) -> None:
        self._url, self._every, self._timeout = url, every, timeout
        self._lock = threading.Lock()
        self._seen: list[tuple[float, bool]] = []
        self._since = time.monotonic()
        self._stop = threading.Event()
        # The target is asked itself, whatever proxy this host has for the rest of the world.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def start(self) -> None:
        """Probes from now on, in a thread of its own."""
        threading.Thread(target=self._run, name="http-probe", daemon=True).start()

    def stop(self) -> None:
        """Probes no more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            self.ask()
            self._stop.wait(max(0.0, begun + self._every - time.monotonic()))

    def ask(self) -> None:
        """One probe. No answer in time counts as an answer that took that long."""
        begun = time.monotonic()
        try:
            with self._opener.open(self._url, timeout=self._timeout) as answer:
                answer.read(64 * 1024)
                good = True
        except (OSError, urllib.error.URLError, ValueError):
            good = False
        with self._lock:
            self._seen.append((time.monotonic() - begun, good))
            del self._seen[:-1000]

    def take(self) -> Answers | None:
        """What was seen since the last call; None when nothing was."""
        now = time.monotonic()
        with self._lock:
            seen, self._seen = self._seen, []
            since, self._since = self._since, now
        if not seen:
            return None
        times = [took for took, _ in seen]
        bad = sum(not good for _, good in seen)
        return Answers(quantile(times, 0.5), quantile(times, 0.99), bad / len(seen), now - since)
