import { type ClientDuplexStream, Metadata, type ServiceError } from "@grpc/grpc-js";

import type {
  Hello,
  StreamSignalsRequest,
  StreamSignalsResponse,
  TelemetryServiceClient,
} from "./generated/agentctl/v1/telemetry.js";
import type { Batch, Outbox } from "./outbox.js";
import { timestamp } from "./time.js";

/** The server answers at least every 10 s: one that says nothing for three times as long is as good as gone. */
const SILENCE_MS = 30_000;

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

/** The stream ended, and no status of the server says why. */
export class Lost extends Error {}

/**
 * Serves one stream of StreamSignals, from Hello to the answered goodbye; answers are handed to `take` as they come.
 *
 * The first answer is the cursor: what the server has heard of this run of the monitor is not sent again, and everything behind it is,
 * under the same numbers. From then on answers acknowledge as the stream goes. A stream that ends in any other way than by an answered
 * goodbye is lost, and another one goes on where the server says.
 */
export async function runStream(
  stub: TelemetryServiceClient,
  token: string,
  hello: Hello,
  shared: Shared,
  take: (answer: StreamSignalsResponse) => void,
): Promise<void> {
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  const call: ClientDuplexStream<StreamSignalsRequest, StreamSignalsResponse> = stub.streamSignals(metadata);
  let heard = performance.now();
  // The number to go on behind; none before the first answer.
  let sent: bigint | undefined;
  let closed = false;
  let failure: ServiceError | Lost | undefined;
  let over = false;
  const ended = new Promise<void>((resolve) => {
    call.on("data", (answer: StreamSignalsResponse) => {
      heard = performance.now();
      sent ??= answer.ackedSeq;
      closed = answer.closed;
      take(answer);
      shared.changed();
    });
    call.on("error", (error: ServiceError) => {
      failure ??= error;
      end();
    });
    call.on("end", end);
    function end(): void {
      over = true;
      shared.changed();
      resolve();
    }
  });
  await write({ $case: "hello", value: hello });
  for (let gone = false; !over; ) {
    const next = gone ? undefined : choose();
    if (typeof next === "string") {
      gone = true;
      await write({ $case: "bye", value: { reason: next } });
      call.end();
    } else if (next) {
      sent = next.seq;
      await write({ $case: "batch", value: { seq: next.seq, signals: next.signals, sentTime: timestamp(Date.now()) } });
    } else {
      await change();
    }
  }
  // The status comes behind the last answer.
  await ended;
  if (failure) throw failure;
  if (!closed) throw new Lost("the stream ended without a goodbye");

  /** The next batch, or why to say goodbye, or nothing yet. */
  function choose(): Batch | string | undefined {
    if (sent === undefined) return undefined;
    return shared.outbox.after(sent, performance.now()) ?? shared.leaving;
  }

  /** Gives the stream up when the server or the client has waited for long enough. */
  function isLate(): boolean {
    const left = Math.min(heard + SILENCE_MS, shared.leaveBy ?? Infinity) - performance.now();
    if (left > 0 || over) return false;
    failure ??= new Lost("no answer from the server");
    call.cancel();
    return true;
  }

  /** Until something changed, or it is time to look at the clock. */
  async function change(): Promise<void> {
    if (isLate()) return ended;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, Math.max(1, Math.min(1_000, (shared.leaveBy ?? Infinity) - performance.now())));
      function done(): void {
        clearTimeout(timer);
        shared.changed = () => {};
        resolve();
      }
      shared.changed = done;
    });
  }

  /** Hands a message over, and waits while the server takes no more. */
  async function write(message: NonNullable<StreamSignalsRequest["message"]>): Promise<void> {
    if (over || call.write({ message })) return;
    let drained = false;
    call.once("drain", () => {
      drained = true;
      shared.changed();
    });
    while (!drained && !over) await change();
  }
}
