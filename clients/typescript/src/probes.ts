import { readFileSync } from "node:fs";
import { get as getHttp } from "node:http";
import { get as getHttps } from "node:https";
import { availableParallelism } from "node:os";
import { join } from "node:path";

/** Ticks per second in /proc; Linux has had no other number for user space in decades. */
const TICKS = 100;

/** Shares of the CPU and of the memory, 0 to 1 and more; absent: not known. */
export interface Usage {
  cpu?: number;
  memory?: number;
}

/** The machine. CPU is the busy share since the last look, so the first look knows none. */
export class HostProbe {
  private last: { total: number; idle: number } | undefined;

  constructor(private readonly proc = "/proc") {}

  /** The usage now. */
  look(): Usage {
    const [line = ""] = readFileSync(join(this.proc, "stat"), "utf8").split("\n", 1);
    const values = line.split(/\s+/).slice(1, 9).map(Number);
    const total = values.reduce((sum, value) => sum + value, 0);
    const idle = (values[3] ?? 0) + (values[4] ?? 0);
    const memory = meminfo(this.proc);
    const usage: Usage = { memory: 1 - memory("MemAvailable") / memory("MemTotal") };
    if (this.last && total > this.last.total) usage.cpu = 1 - (idle - this.last.idle) / (total - this.last.total);
    this.last = { total, idle };
    return usage;
  }
}

/** What a process may use; absent: all the machine has. */
export interface Limits {
  cpus?: number;
  memory?: number;
}

/** One process against limits. `pid` is a number, or a file that holds one and is read at each look. */
export class ProcessProbe {
  private last: { pid: string; started: string; ticks: number; at: number } | undefined;

  constructor(
    private readonly pid: string,
    private readonly limits: Limits = {},
    private readonly proc = "/proc",
  ) {}

  /** The usage now; absent when the process is gone. */
  look(now = performance.now()): Usage | undefined {
    let pid: string;
    let text: string;
    let resident: number;
    try {
      pid = /^[0-9]+$/.test(this.pid) ? this.pid : readFileSync(this.pid, "utf8").trim();
      text = readFileSync(join(this.proc, pid, "stat"), "utf8");
      resident = kib(readFileSync(join(this.proc, pid, "status"), "utf8"), "VmRSS") ?? 0;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT" && code !== "ESRCH") throw error;
      this.last = undefined;
      return undefined;
    }
    // The name in brackets may hold anything, so what counts begins behind the last bracket.
    const words = text.slice(text.lastIndexOf(")") + 1).trim().split(/\s+/);
    if (words[0] === "Z") {
      this.last = undefined;
      return undefined;
    }
    const ticks = Number(words[11]) + Number(words[12]);
    const started = words[19] ?? "";
    const limit = this.limits.memory ?? meminfo(this.proc)("MemTotal");
    const usage: Usage = { memory: resident / limit };
    // The same number with another start time is another process.
    if (this.last?.pid === pid && this.last.started === started && now > this.last.at) {
      const cpus = this.limits.cpus ?? availableParallelism();
      usage.cpu = (ticks - this.last.ticks) / TICKS / ((now - this.last.at) / 1_000) / cpus;
    }
    this.last = { pid, started, ticks, at: now };
    return usage;
  }
}

/** /proc/meminfo in bytes. */
function meminfo(proc: string): (name: string) => number {
  const text = readFileSync(join(proc, "meminfo"), "utf8");
  return (name) => {
    const value = kib(text, name);
    if (value === undefined) throw new Error(`meminfo has no ${name}`);
    return value;
  };
}

/** The value of a line such as `VmRSS:  12 kB`, in bytes; a process that just ended has none. */
function kib(text: string, name: string): number | undefined {
  const value = new RegExp(`^${name}:\\s+([0-9]+) kB`, "m").exec(text)?.[1];
  return value === undefined ? undefined : Number(value) * 1_024;
}

/** What a span of HTTP probes saw, in seconds. */
export interface Answers {
  p50: number;
  p99: number;
  errorRatio: number;
  window: number;
}

/** Asks one URL again and again, one request at a time. Anything but 2xx and 3xx, and no answer, is an error. */
export class HttpProbe {
  private seen: { took: number; good: boolean }[] = [];
  private since = performance.now();
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;

  constructor(
    private readonly url: string,
    private readonly everyMs: number,
    private readonly timeoutMs: number,
  ) {}

  /** Probes from now on. */
  start(): void {
    const begun = performance.now();
    void this.ask().then(() => {
      if (this.stopped) return;
      this.timer = setTimeout(() => this.start(), Math.max(0, begun + this.everyMs - performance.now()));
    });
  }

  /** Probes no more. */
  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  /** One probe. No answer in time counts as an answer that took that long. */
  async ask(): Promise<void> {
    const begun = performance.now();
    const good = await this.request();
    this.seen.push({ took: (performance.now() - begun) / 1_000, good });
    if (this.seen.length > 1_000) this.seen.shift();
  }

  private request(): Promise<boolean> {
    return new Promise((resolve) => {
      const get = this.url.startsWith("https:") ? getHttps : getHttp;
      try {
        // Each probe connects anew, as a client would that comes by.
        const request = get(this.url, { agent: false, signal: AbortSignal.timeout(this.timeoutMs) }, (answer) => {
          const code = answer.statusCode ?? 0;
          answer.on("error", () => resolve(false)).on("end", () => resolve(code >= 200 && code < 400));
          answer.resume();
        });
        request.on("error", () => resolve(false));
      } catch {
        resolve(false);
      }
    });
  }

  /** What was seen since the last call; absent when nothing was. */
  take(): Answers | undefined {
    const now = performance.now();
    const { seen, since } = this;
    this.seen = [];
    this.since = now;
    if (seen.length === 0) return undefined;
    const times = seen.map(({ took }) => took);
    const bad = seen.filter(({ good }) => !good).length;
    return {
      p50: quantile(times, 0.5),
      p99: quantile(times, 0.99),
      errorRatio: bad / seen.length,
      window: (now - since) / 1_000,
    };
  }
}

/** The smallest of `values` that at least the share `q` of them does not exceed. */
export function quantile(values: readonly number[], q: number): number {
  const ordered = values.toSorted((a, b) => a - b);
  return ordered[Math.max(0, Math.ceil(q * ordered.length) - 1)] ?? NaN;
}
