import { randomBytes } from "node:crypto";

import { Metadata, type ServiceError, status } from "@grpc/grpc-js";

import { Backoff } from "./backoff.js";
import { detailsOf } from "./details.js";
import {
  type DeepPartial,
  type Hello,
  type PushSignalsResponse,
  Signal,
  StreamSignalsResponse,
  TelemetryServiceClient,
} from "./generated/agentctl/v1/telemetry.js";
import { Lost, runStream, type Shared } from "./link.js";
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
  /** Streams that ended without an answered goodbye. */
  lostStreams: number;
}

type Counts = Pick<Stats, "accepted" | "duplicates" | "rejected" | "missed">;

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
  private readonly backoff = new Backoff();
  /** What the streams that are over counted, and what the present one has counted so far. */
  private past: Counts = { accepted: 0, duplicates: 0, rejected: 0, missed: 0 };
  private told = StreamSignalsResponse.fromPartial({});
  private lostStreams = 0;
  private readonly log: (line: string) => void;
  private readonly running: Promise<void>;
  private refused: Refused | undefined;

  constructor(private readonly options: Options) {
    const outbox = new Outbox(options.buffer ?? 10_000, options.maxAgeMs ?? 240_000);
    this.shared = { outbox, changed: () => {} };
    this.log = options.log ?? (() => {});
    this.hello = greeting(options);
    this.running = this.run();
  }

  /** Queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere. */
  push(...readings: Reading[]): void {
    this.shared.outbox.add(timed(readings), performance.now());
    this.shared.changed();
  }

  /** What became of the signals so far. */
  stats(): Stats {
    const { lastSeq, ackedSeq, pending, dropped } = this.shared.outbox;
    const { lostStreams } = this;
    return { lastSeq: Number(lastSeq), ackedSeq: Number(ackedSeq), pending, dropped, ...this.counted(), lostStreams };
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

  /** What the server counted, over all streams. */
  private counted(): Counts {
    const { past, told } = this;
    return {
      accepted: past.accepted + Number(told.accepted),
      duplicates: past.duplicates + Number(told.duplicates),
      rejected: past.rejected + Number(told.rejected),
      missed: past.missed + Number(told.missed),
    };
  }

  private async run(): Promise<void> {
    let stub: TelemetryServiceClient | undefined;
    for (let wait: number | undefined = 0; wait !== undefined && (await this.pause(wait)); ) {
      stub ??= new TelemetryServiceClient(...connection(this.options.target));
      try {
        await runStream(stub, this.options.token, this.hello, this.shared, (answer) => this.take(answer));
        const { outbox, leaving } = this.shared;
        wait = leaving !== undefined && outbox.pending === 0 ? undefined : 0;
      } catch (error) {
        stub.close();
        stub = undefined;
        wait = this.failed(error as ServiceError | Lost);
      }
      this.past = this.counted();
      this.told = StreamSignalsResponse.fromPartial({});
    }
    stub?.close();
  }

  /** Notes an answer. It says what became of the whole stream, so it takes the place of the one before. */
  private take(answer: StreamSignalsResponse): void {
    const { outbox } = this.shared;
    const acked = outbox.ackedSeq;
    outbox.acknowledge(answer.ackedSeq);
    if (outbox.ackedSeq > acked) this.backoff.reset();
    const rejected = answer.rejected - this.told.rejected;
    this.told = answer;
    for (const { field, rule, value, reason } of answer.rejections.slice(0, 3)) {
      this.log(`rejected: ${field} ${rule}, got \`${value}\` (${reason})`);
    }
    if (rejected > 3n) this.log(`rejected: ${rejected} signals in all`);
  }

  /** Notes the loss of a stream: the wait before the next one, unless it is final. */
  private failed(error: ServiceError | Lost): number | undefined {
    this.lostStreams += 1;
    const { reason, retryMs = 0, summary } = error instanceof Lost ? {} : detailsOf(error);
    if (summary) {
      // Cut for its bad signals: they were judged, so sending them again would end the next stream too.
      const { highWaterSeq: ackedSeq, accepted, duplicates, rejected, missed } = summary;
      this.take(StreamSignalsResponse.fromPartial({ ackedSeq, accepted, duplicates, rejected, missed }));
    } else if (!(error instanceof Lost) && PERMANENT.has(error.code)) {
      this.refused = new Refused(error.code, error.details, reason || (status[error.code] ?? ""));
      this.log(`refused: ${this.refused.message}`);
      return undefined;
    }
    const wait = Math.max(this.backoff.nextWait(), retryMs);
    const message = error instanceof Lost ? error.message : error.details || error.message;
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

/**
 * Pushes signals over one stream of PushSignals and returns what became of them: for a script that does not stay. It is tried once;
 * errors are those of gRPC.
 */
export function pushOnce(options: Options, readings: Reading[], timeoutMs = 10_000): Promise<PushSignalsResponse> {
  const outbox = new Outbox(readings.length, timeoutMs);
  outbox.add(timed(readings), 0);
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${options.token}`);
  const stub = new TelemetryServiceClient(...connection(options.target));
  const answer = new Promise<PushSignalsResponse>((resolve, reject) => {
    const call = stub.pushSignals(metadata, { deadline: Date.now() + timeoutMs }, (error, summary) =>
      error ? reject(error) : resolve(summary),
    );
    // Why the stream ended is in the answer.
    call.on("error", () => {});
    call.write({ message: { $case: "hello", value: greeting(options) } });
    for (let found = outbox.after(0n, 0); found; found = outbox.after(found.seq, 0)) {
      const { seq, signals } = found;
      call.write({ message: { $case: "batch", value: { seq, signals, sentTime: timestamp(Date.now()) } } });
    }
    call.write({ message: { $case: "bye", value: { reason: "done" } } });
    call.end();
  });
  return answer.finally(() => stub.close());
}

/** Who pushes. Each call is another run of the monitor. */
function greeting({ monitorId, environment, ttlMs }: Options): Hello {
  // Zero is the one number that says nothing.
  const epoch = randomBytes(8).readBigUInt64LE() || 1n;
  return { monitorId, environment, epoch, defaultTtl: ttlMs === undefined ? undefined : duration(ttlMs) };
}

/** Signals out of what is known. One without a time was measured now. */
function timed(readings: Reading[]): Signal[] {
  const time = timestamp(Date.now());
  return readings.map((reading) => Signal.fromPartial({ time, ...reading }));
}
