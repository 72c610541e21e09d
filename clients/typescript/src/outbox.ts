import { Signal } from "./generated/agentctl/v1/telemetry.js";

/** Limits of the server for one batch; the bytes leave room for what surrounds the signals. */
export const BATCH_SIGNALS = 1_000;
export const BATCH_BYTES = 900 * 1024;

/** Signals under one sequence number. */
export interface Batch {
  readonly seq: bigint;
  readonly signals: Signal[];
  readonly queuedAt: number;
}

/**
 * Signals that the server has not acknowledged yet: numbered, bounded, in order. At most `limit` of them, none older than `maxAgeMs`;
 * the oldest give way and are counted.
 *
 * It knows nothing of streams. Whoever sends asks for the batch behind the last one it sent, and calls `acknowledge` whenever it
 * learns that the server has everything up to a number.
 */
export class Outbox {
  lastSeq = 0n;
  ackedSeq = 0n;
  pending = 0;
  dropped = 0;
  private readonly batches: Batch[] = [];

  constructor(
    private readonly limit: number,
    private readonly maxAgeMs: number,
  ) {}

  /** Takes signals in, as few batches as the server's limits allow. One that could never be sent is dropped. */
  add(signals: Iterable<Signal>, now: number): void {
    let part: Signal[] = [];
    let size = 0;
    for (const signal of signals) {
      const cost = Signal.encode(signal).finish().length + 8;
      if (cost > BATCH_BYTES) {
        this.dropped += 1;
        continue;
      }
      if (part.length > 0 && (part.length === BATCH_SIGNALS || size + cost > BATCH_BYTES)) {
        this.append(part, now);
        part = [];
        size = 0;
      }
      part.push(signal);
      size += cost;
    }
    if (part.length > 0) this.append(part, now);
  }

  private append(signals: Signal[], queuedAt: number): void {
    this.lastSeq += 1n;
    this.batches.push({ seq: this.lastSeq, signals, queuedAt });
    this.pending += signals.length;
    // The newest batch stays, whatever its size: it is what the server should know.
    while (this.pending > this.limit && this.batches.length > 1) this.dropOldest();
  }

  private dropOldest(): void {
    this.dropped += this.shift();
  }

  private shift(): number {
    const gone = this.batches.shift()?.signals.length ?? 0;
    this.pending -= gone;
    return gone;
  }

  /** The first batch with a higher number than `seq`, after dropping what is too old to be believed. */
  after(seq: bigint, now: number): Batch | undefined {
    for (let oldest = this.batches[0]; oldest && now - oldest.queuedAt > this.maxAgeMs; oldest = this.batches[0]) {
      this.dropOldest();
    }
    return this.batches.find((batch) => batch.seq > seq);
  }

  /** The server has everything up to `seq`. */
  acknowledge(seq: bigint): void {
    const upTo = seq < this.lastSeq ? seq : this.lastSeq;
    if (upTo > this.ackedSeq) this.ackedSeq = upTo;
    for (let oldest = this.batches[0]; oldest && oldest.seq <= upTo; oldest = this.batches[0]) this.shift();
  }
}
