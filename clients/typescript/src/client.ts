import { randomBytes } from "node:crypto";

import { type ServiceError, status } from "@grpc/grpc-js";

import { Backoff } from "./backoff.js";
import { detailsOf } from "./details.js";
import {
  type DeepPartial,
  type Hello,
  type PushSignalsResponse,
  Signal,
  TelemetryServiceClient,
} from "./generated/agentctl/v1/telemetry.js";
import { runStream, type Shared } from "./link.js";
import { Outbox } from "./outbox.js";
import { connection, type Target } from "./target.js";
import { duration, timestamp } from "./time.js";

export { BadTarget, parseTarget, readToken, type Target } from "./target.js";
export { Signal };

/** A signal with what is known; what is left out stays unknown. */
export type Reading = DeepPartial<Signal>;

/** Who pushes where. */
export interface Options {
  readonly target: Target;
  readonly token: string;
  /** Environment the server serves. */
  readonly environment: string;
  /** Stable across restarts of the monitor. */
  readonly monitorId: string;
  /** How long a signal counts as fresh; absent: as the server has it. A shorter life makes the agent less sure of it. */
  readonly ttlMs?: number;
  /** Signals kept while they are not acknowledged; the oldest give way. 10,000. */
  readonly buffer?: number;
  /** What waited longer is dropped: the server takes nothing older than five minutes. Four minutes. */
  readonly maxAgeMs?: number;
  /** How often the server is asked what it has. 15 s. */
  readonly ackEveryMs?: number;
  /** Told in one line what happens to the connection and to the signals. */
  readonly log?: (line: string) => void;
}

/** What became of the signals so far. */
export interface Stats {
  /** Batches made, and the highest of them the server has acknowledged. */
  lastSeq: number;
  ackedSeq: number;
  /** Signals that wait, and that gave way to newer ones. */
  pending: number;
  dropped: number;
  /** As the server counted them. */
  accepted: number;
  duplicates: number;
  rejected: number;
  missed: number;
  /** Streams that ended without a summary. */
  lostStreams: number;
}

/** The server said something another attempt would not change. */
export class Refused extends Error {
  constructor(
    readonly code: status,
    message: string,
    readonly reason: string,
  ) {
    super(`${message} (${reason})`);
  }
}

const PERMANENT: ReadonlySet<status> = new Set([
  status.INVALID_ARGUMENT,
  status.NOT_FOUND,
  status.PERMISSION_DENIED,
  status.UNAUTHENTICATED,
  status.UNIMPLEMENTED,
  status.OUT_OF_RANGE,
]);

/** Pushes signals to one agentd: they go in without waiting, and are taken there in the background. End it with `close`. */
export class SignalClient {
  private readonly shared: Shared;
  private readonly hello: Hello;
  private readonly total = { accepted: 0, duplicates: 0, rejected: 0, missed: 0, lostStreams: 0 };
  private readonly log: (line: string) => void;
  private readonly running: Promise<void>;
  private refused: Refused | undefined;

  constructor(private readonly options: Options) {
    const outbox = new Outbox(options.buffer ?? 10_000, options.maxAgeMs ?? 240_000);
    this.shared = { outbox, changed: () => {} };
    this.log = options.log ?? (() => {});
    this.hello = {
      monitorId: options.monitorId,
      environment: options.environment,
      // Zero is the one number that says nothing.
      epoch: randomBytes(8).readBigUInt64LE() || 1n,
      defaultTtl: options.ttlMs === undefined ? undefined : duration(options.ttlMs),
    };
    this.running = this.run();
  }

  /** Queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere. */
  push(...readings: Reading[]): void {
    const time = timestamp(Date.now());
    const signals = readings.map((reading) => Signal.fromPartial({ time, ...reading }));
    this.shared.outbox.add(signals, performance.now());
    this.shared.changed();
  }

  /** What became of the signals so far. */
  stats(): Stats {
    const { lastSeq, ackedSeq, pending, dropped } = this.shared.outbox;
    return { lastSeq: Number(lastSeq), ackedSeq: Number(ackedSeq), pending, dropped, ...this.total };
  }

  /** What ended the client, if the server refused it. */
  refusal(): Refused | undefined {
    return this.refused;
  }

  /** Sends what waits, says goodbye and ends. True when the server has everything that was not dropped. */
  async close(reason = "", timeoutMs = 5_000): Promise<boolean> {
    this.shared.leaving ??= reason;
    this.shared.leaveBy ??= performance.now() + timeoutMs;
    this.shared.changed();
    await this.running;
    return this.shared.outbox.pending === 0 && this.refused === undefined;
  }

  private async run(): Promise<void> {
    const backoff = new Backoff();
    let stub: TelemetryServiceClient | undefined;
    for (let wait: number | undefined = 0; wait !== undefined && (await this.pause(wait)); ) {
      stub ??= new TelemetryServiceClient(...connection(this.options.target));
      try {
        const { token, ackEveryMs = 15_000 } = this.options;
        const summary = await runStream(stub, token, this.hello, this.shared, ackEveryMs);
        backoff.reset();
        wait = this.take(summary) ? undefined : 0;
      } catch (error) {
        stub.close();
        stub = undefined;
        wait = this.failed(error as ServiceError, backoff);
      }
    }
    stub?.close();
  }

  /** Notes a summary; true when nothing is left to do. */
  private take(summary: PushSignalsResponse): boolean {
    const { outbox, leaving } = this.shared;
    outbox.acknowledge(summary.highWaterSeq);
    this.total.accepted += Number(summary.accepted);
    this.total.duplicates += Number(summary.duplicates);
    this.total.rejected += Number(summary.rejected);
    this.total.missed += Number(summary.missed);
    for (const { field, rule, value, reason } of summary.rejections.slice(0, 3)) {
      this.log(`rejected: ${field} ${rule}, got \`${value}\` (${reason})`);
    }
    if (summary.rejected > 3n) this.log(`rejected: ${summary.rejected} signals in all`);
    return leaving !== undefined && outbox.pending === 0;
  }

  /** Notes the loss of a stream: the wait before the next one, unless it is final. */
  private failed(error: ServiceError, backoff: Backoff): number | undefined {
    const { reason, retryMs = 0, summary } = detailsOf(error);
    this.total.lostStreams += 1;
    if (summary) {
      // Cut for its bad signals: they were judged, so sending them again would end the next stream too.
      this.take(summary);
    } else if (PERMANENT.has(error.code)) {
      this.refused = new Refused(error.code, error.details, reason || (status[error.code] ?? ""));
      this.log(`refused: ${this.refused.message}`);
      return undefined;
    }
    const wait = Math.max(backoff.nextWait(), retryMs);
    const quiet = error.code === status.DEADLINE_EXCEEDED || error.code === status.CANCELLED;
    const message = quiet ? "no answer from the server" : error.details || error.message;
    this.log(`lost: ${message}; again in ${(wait / 1_000).toFixed(1)} s`);
    return wait;
  }

  /** Waits; false when the time to leave is over. */
  private async pause(ms: number): Promise<boolean> {
    const end = performance.now() + ms;
    for (;;) {
      const now = performance.now();
      const leaveBy = this.shared.leaveBy ?? Infinity;
      if (now >= leaveBy) return false;
      if (now >= end) return true;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.min(end, leaveBy) - now);
        this.shared.changed = () => {
          // Only leaving shortens a wait; new signals do not.
          if (this.shared.leaveBy === undefined || leaveBy !== Infinity) return;
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
