import assert from "node:assert/strict";
import { test } from "node:test";

import { Backoff } from "../src/backoff.js";
import { Signal } from "../src/generated/agentctl/v1/telemetry.js";
import { BATCH_BYTES, Outbox } from "../src/outbox.js";

const signals = (n: number, app = "web"): Signal[] =>
  new Array<Signal>(n).fill(Signal.fromPartial({ app, cpuUtilization: 0.5 }));

function sequence(outbox: Outbox, now = 0): bigint[] {
  const found: bigint[] = [];
  for (let batch = outbox.after(0n, now); batch; batch = outbox.after(batch.seq, now)) found.push(batch.seq);
  return found;
}

test("what is not acknowledged is there to be sent again in order", () => {
  const outbox = new Outbox(100, 60_000);
  for (let n = 0; n < 4; n += 1) outbox.add(signals(2), 0);
  assert.deepEqual(sequence(outbox), [1n, 2n, 3n, 4n]);
  outbox.acknowledge(2n);
  assert.deepEqual(sequence(outbox), [3n, 4n], "the same numbers again");
  outbox.acknowledge(1n);
  assert.deepEqual([outbox.ackedSeq, outbox.pending], [2n, 4], "an acknowledgement is never taken back");
  outbox.acknowledge(99n);
  assert.deepEqual([outbox.ackedSeq, outbox.pending], [4n, 0], "nothing is acknowledged that was never made");
});

test("a full buffer drops the oldest and counts it", () => {
  const outbox = new Outbox(5, 60_000);
  for (let n = 0; n < 4; n += 1) outbox.add(signals(2), 0);
  assert.deepEqual(sequence(outbox), [3n, 4n]);
  assert.deepEqual([outbox.dropped, outbox.pending], [4, 4]);
  outbox.add(signals(9), 0);
  assert.deepEqual(sequence(outbox), [5n], "the newest stays, whatever its size");
});

test("what is too old to be believed is not sent", () => {
  const outbox = new Outbox(100, 60_000);
  outbox.add(signals(1), 0);
  outbox.add(signals(1), 50_000);
  assert.deepEqual(sequence(outbox, 61_000), [2n]);
  assert.equal(outbox.dropped, 1);
});

test("batches keep to the limits of the server", () => {
  const outbox = new Outbox(10_000, 60_000);
  outbox.add(signals(2_500), 0);
  const sizes = [0n, 1n, 2n].map((seq) => outbox.after(seq, 0)?.signals.length);
  assert.deepEqual(sizes, [1_000, 1_000, 500]);
  const big = new Outbox(10_000, 60_000);
  big.add(signals(3, "x".repeat(BATCH_BYTES / 2)), 0);
  assert.deepEqual(sequence(big), [1n, 2n, 3n]);
  big.add(signals(1, "x".repeat(BATCH_BYTES + 1)), 0);
  assert.deepEqual([sequence(big).length, big.dropped], [3, 1], "what no batch can hold is never sent");
});

test("waits double up to the cap and start again after success", () => {
  const longest = new Backoff(100, 2_000, () => 1);
  const shortest = new Backoff(100, 2_000, () => 0);
  for (const step of [100, 200, 400, 800, 1_600, 2_000, 2_000]) {
    assert.deepEqual([longest.nextWait(), shortest.nextWait()], [step, step / 2]);
  }
  longest.reset();
  assert.equal(longest.nextWait(), 100);
});
