import { Metadata, type ServiceError } from "@grpc/grpc-js";

import type {
  Hello,
  PushSignalsRequest,
  PushSignalsResponse,
  TelemetryServiceClient,
} from "./generated/agentctl/v1/telemetry.js";
import type { Batch, Outbox } from "./outbox.js";
import { timestamp } from "./time.js";

/** Time for the summary after Bye. */
const SUMMARY_TIMEOUT_MS = 10_000;

/** What the stream and the rest of the client look at. */
export interface Shared {
  readonly outbox: Outbox;
  /** Why the client leaves, once it does. */
  leaving?: string;
  /** When it gives up waiting for that. */
  leaveBy?: number;
  /** Called when one of the above changed. */
  changed: () => void;
}

/**
 * Serves one stream of PushSignals, from Hello to the summary.
 *
 * This stream acknowledges at its end: so it is ended now and then (`ackEveryMs`, or when the buffer is half full) and opened again
 * with the same epoch. A stream that acknowledges as it goes would be another function of this shape, calling
 * `outbox.acknowledge` for each message it receives; the rest of the client would not change.
 */
export async function runStream(
  stub: TelemetryServiceClient,
  token: string,
  hello: Hello,
  shared: Shared,
  ackEveryMs: number,
): Promise<PushSignalsResponse> {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  const begun = performance.now();
  // The server may take no longer than this to say what it has, or it is as good as gone.
  const patience = Math.min(ackEveryMs + SUMMARY_TIMEOUT_MS, (shared.leaveBy ?? Infinity) - begun);
  const deadline = new Date(Date.now() + patience);
  let over = false;
  let settle!: { resolve: (summary: PushSignalsResponse) => void; reject: (error: ServiceError) => void };
  const answer = new Promise<PushSignalsResponse>((resolve, reject) => (settle = { resolve, reject }));
  const call = stub.pushSignals(metadata, { deadline }, (error, summary) => {
    over = true;
    shared.changed();
    if (error) settle.reject(error);
    else settle.resolve(summary);
  });
  // Why the stream ended is in the answer.
  call.on("error", () => {});
  void send();
  return answer;

  async function send(): Promise<void> {
    let sent = 0n;
    await write({ $case: "hello", value: hello });
    while (!over) {
      const now = performance.now();
      if (shared.leaveBy !== undefined && now >= shared.leaveBy) return call.cancel();
      const next = choose(sent, now >= begun + ackEveryMs);
      if (typeof next === "string") {
        await write({ $case: "bye", value: { reason: next } });
        call.end();
        break;
      }
      if (next) {
        sent = next.seq;
        const value = { seq: next.seq, signals: next.signals, sentTime: timestamp(Date.now()) };
        await write({ $case: "batch", value });
      } else {
        await change(begun + ackEveryMs - now);
      }
    }
    await leaveInTime();
  }

  /** The next batch, or why to say goodbye, or nothing yet. */
  function choose(sent: bigint, isDue: boolean): Batch | string | undefined {
    const { outbox, leaving } = shared;
    const batch = outbox.after(sent, performance.now());
    const unacknowledged = sent > outbox.ackedSeq;
    // What was sent and waits for its acknowledgement must not push out what was not.
    const full = outbox.crowded && unacknowledged;
    if (leaving === undefined && (full || (isDue && (!batch || unacknowledged)))) return "checkpoint";
    return batch ?? leaving;
  }

  /** Waits for the summary no longer than the client may take to leave. */
  async function leaveInTime(): Promise<void> {
    while (!over) {
      const left = (shared.leaveBy ?? Infinity) - performance.now();
      if (left <= 0) return call.cancel();
      await change(Math.min(left, 60_000));
    }
  }

  /** Until something changed, or the time is over. */
  function change(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(done, Math.max(ms, 1));
      function done(): void {
        clearTimeout(timer);
        shared.changed = () => {};
        resolve();
      }
      shared.changed = done;
    });
  }

  /** Hands a message over, and waits while the server takes no more. */
  async function write(message: NonNullable<PushSignalsRequest["message"]>): Promise<void> {
    if (over || call.write({ message })) return;
    await new Promise<void>((resolve) => {
      call.once("drain", resolve);
      void answer.then(() => resolve(), () => resolve());
    });
  }
}
