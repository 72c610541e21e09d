#!/usr/bin/env node
/**
 * A small monitor: measures a host, a process and an HTTP endpoint, and tells agentd what it saw of one app.
 *
 *     agentctl-monitor --app my-api --env stage --url http://127.0.0.1:8080/healthz
 */
import { hostname } from "node:os";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";

import { status } from "@grpc/grpc-js";

import { BadTarget, parseTarget, type Reading, readToken, SignalClient, type Stats, type Target } from "./client.js";
import { HostProbe, HttpProbe, ProcessProbe, type Usage } from "./probes.js";
import { duration } from "./time.js";

/** Exit codes are those of agentctl. */
const EXIT = { usage: 2, notFound: 3, forbidden: 4, unreachable: 8 } as const;
/** A share of the host above which it is said to be under pressure. */
const PRESSURE = 0.9;

const HELP = `Tells agentd how an app does.

Usage: agentctl-monitor --app APP --env ENV [--url URL] [--pid PID|FILE] [--host] [OPTIONS]

  --app APP             app, as it was onboarded
  --env ENV             environment the server serves
  --instance N          instance, such as 0 [default: the app as a whole]
  --address ADDRESS     HOST:PORT or https://HOST:PORT [default: AGENTCTL_ADDRESS, then 127.0.0.1:7443]
  --token-file FILE     file with the token, mode 0600 [default: AGENTCTL_TOKEN_FILE, then AGENTCTL_TOKEN]
  --tls-ca FILE         certificate authority of the server, PEM
  --plaintext           talk plain text to another host
  --id ID               who reports [default: monitor-HOST]
  --url URL             ask this URL for latency and errors
  --pid PID|FILE        CPU and memory of this process
  --cpus N              cores the process may use [default: all]
  --memory-mib N        memory the process may use [default: all]
  --host                CPU and memory of the machine: it is the app's own
  --every TIME          time between signals [default: 5s]
  --probe-every TIME    time between requests [default: 500ms]
  --probe-timeout TIME  longest wait for an answer [default: 5s]
`;

const text = { type: "string" } as const;
const flag = { type: "boolean" } as const;
const FLAGS = {
  app: text, env: text, instance: text, address: text, "token-file": text, "tls-ca": text, plaintext: flag, id: text,
  url: text, pid: text, cpus: text, "memory-mib": text, host: flag, every: text, "probe-every": text,
  "probe-timeout": text, help: flag,
} as const;

/** The command line; the four monitors have the same. */
export interface Config {
  app: string;
  env: string;
  instance: string;
  target: Target;
  token: string;
  id: string;
  url?: string;
  pid?: string;
  cpus?: number;
  memory?: number;
  host: boolean;
  everyMs: number;
  probeEveryMs: number;
  probeTimeoutMs: number;
}

/** Reads the command line; `undefined` when only help was asked for. Throws `BadTarget` with what to do. */
export function configure(args: string[], env: NodeJS.ProcessEnv): Config | undefined {
  let values: ReturnType<typeof parseArgs<{ options: typeof FLAGS }>>["values"];
  try {
    ({ values } = parseArgs({ args, options: FLAGS, strict: true }));
  } catch (error) {
    throw new BadTarget((error as Error).message);
  }
  if (values.help) return undefined;
  const { app, env: environment, url, pid, host = false } = values;
  if (!app || !environment) throw new BadTarget("--app and --env are required");
  if (!url && !pid && !host) throw new BadTarget("nothing to measure: add --url, --pid or --host");
  if (pid && host) throw new BadTarget("--pid and --host both say whose CPU is the app's, leave out one of them");
  const address = values.address ?? env["AGENTCTL_ADDRESS"] ?? "127.0.0.1:7443";
  return {
    app,
    env: environment,
    instance: values.instance ?? "",
    target: parseTarget(address, values["tls-ca"], values.plaintext),
    token: readToken(values["token-file"], env),
    id: values.id ?? `monitor-${hostname()}`.slice(0, 64),
    url,
    pid,
    cpus: positive("--cpus", values.cpus),
    memory: mib(positive("--memory-mib", values["memory-mib"])),
    host,
    everyMs: span(values.every ?? "5s"),
    probeEveryMs: span(values["probe-every"] ?? "500ms"),
    probeTimeoutMs: span(values["probe-timeout"] ?? "5s"),
  };
}

function span(text: string): number {
  const [, number = "0", unit = "s"] = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m)$/.exec(text) ?? [];
  const ms = Number(number) * ({ ms: 1, s: 1_000, m: 60_000 }[unit] ?? 0);
  if (ms === 0) throw new BadTarget(`invalid time \`${text}\`, expected such as 500ms, 5s or 1m`);
  return ms;
}

function positive(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!(value > 0 && value < Infinity)) throw new BadTarget(`invalid ${name} \`${text}\`, expected a number above 0`);
  return value;
}

function mib(value: number | undefined): number | undefined {
  return value === undefined ? undefined : value * 1_024 * 1_024;
}

/** Turns what the probes see into signals. */
class Measure {
  private readonly host = new HostProbe();
  private readonly process: ProcessProbe | undefined;
  private readonly http: HttpProbe | undefined;

  constructor(private readonly config: Config) {
    const { pid, url, cpus, memory, probeEveryMs, probeTimeoutMs } = config;
    this.process = pid === undefined ? undefined : new ProcessProbe(pid, { cpus, memory });
    this.http = url === undefined ? undefined : new HttpProbe(url, probeEveryMs, probeTimeoutMs);
    this.http?.start();
  }

  /** One signal. What is not known is left out: absent is never zero. */
  look(): Reading {
    const host = this.host.look();
    // How the host does says nothing about the app by itself, so it travels as a hint beside the numbers.
    const conditions: Record<string, boolean> = {};
    if (host.cpu !== undefined) conditions["host_cpu_high"] = host.cpu >= PRESSURE;
    if (host.memory !== undefined) conditions["host_memory_high"] = host.memory >= PRESSURE;
    let usage: Usage | undefined = this.config.host ? host : undefined;
    if (this.process) {
      usage = this.process.look();
      conditions["process_running"] = usage !== undefined;
    }
    const answers = this.http?.take();
    return {
      app: this.config.app,
      instance: this.config.instance,
      cpuUtilization: atLeastZero(usage?.cpu),
      memoryUtilization: atLeastZero(usage?.memory),
      latencyP50Seconds: answers?.p50,
      latencyP99Seconds: answers?.p99,
      errorRatio: answers?.errorRatio,
      window: answers && duration(Math.max(answers.window * 1_000, 1)),
      conditions,
    };
  }

  stop(): void {
    this.http?.stop();
  }
}

function atLeastZero(share: number | undefined): number | undefined {
  return share === undefined ? undefined : Math.max(share, 0);
}

/** Statistics under the names all four monitors have. */
function asJson(stats: Stats): string {
  const named = Object.entries(stats).map(([name, value]) => [
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    value,
  ]);
  return JSON.stringify(Object.fromEntries(named));
}

/** Runs until TERM or Ctrl-C. The last line on stdout is what became of the signals, as JSON. */
async function main(): Promise<number> {
  const log = (line: string): void => void process.stderr.write(`agentctl-monitor: ${line}\n`);
  let config: Config | undefined;
  try {
    config = configure(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof BadTarget)) throw error;
    log(error.message);
    return EXIT.usage;
  }
  if (!config) {
    process.stdout.write(HELP);
    return 0;
  }
  const stop = new AbortController();
  for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, () => stop.abort());
  const { target, token, env: environment, id: monitorId } = config;
  const client = new SignalClient({ target, token, environment, monitorId, log });
  const measure = new Measure(config);
  await new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      if (client.refusal()) return end();
      try {
        client.push(measure.look());
      } catch (error) {
        log(`cannot measure: ${(error as Error).message}`);
      }
    }, config.everyMs);
    function end(): void {
      clearInterval(timer);
      resolve();
    }
    stop.signal.addEventListener("abort", end);
    if (stop.signal.aborted) end();
  });
  measure.stop();
  const complete = await client.close("stopped");
  process.stdout.write(`${asJson(client.stats())}\n`);
  switch (client.refusal()?.code) {
    case undefined:
      return complete ? 0 : EXIT.unreachable;
    case status.NOT_FOUND:
      return EXIT.notFound;
    case status.INVALID_ARGUMENT:
      return EXIT.usage;
    default:
      return EXIT.forbidden;
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) process.exit(await main());
