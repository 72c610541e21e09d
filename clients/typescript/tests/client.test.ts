import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Metadata, Server, ServerCredentials, type ServerDuplexStream, type ServerReadableStream, status } from "@grpc/grpc-js";

import { type Options, parseTarget, pushOnce, SignalClient } from "../src/client.js";
import {
  type PushSignalsRequest,
  PushSignalsResponse,
  StreamSignalsRequest,
  StreamSignalsResponse,
  TelemetryServiceService,
} from "../src/generated/agentctl/v1/telemetry.js";

type Answer = Parameters<typeof StreamSignalsResponse.fromPartial>[0];

/** How a stream goes: what is answered to its messages, and the status it ends with behind them. */
interface Script {
  answers?: Answer[];
  code?: status;
  details?: [string, Uint8Array][];
  /** It forgets what it heard, as a server does that is started again. */
  forgets?: boolean;
  /** Before the first answer. */
  wait?: Promise<void>;
}

/** A server that does what a test tells it, for what a real one cannot be asked to do; without a script it takes everything. */
class Fake {
  readonly streams: StreamSignalsRequest[][] = [];
  readonly once: PushSignalsRequest[] = [];
  readonly tokens: unknown[] = [];
  port = 0;

  static async start(t: TestContext, ...scripts: Script[]): Promise<Fake> {
    const fake = new Fake();
    const server = new Server();
    server.addService(TelemetryServiceService, {
      streamSignals: (call: ServerDuplexStream<StreamSignalsRequest, StreamSignalsResponse>) =>
        fake.serve(call, scripts.shift()),
      pushSignals: (
        call: ServerReadableStream<PushSignalsRequest, PushSignalsResponse>,
        answer: (error: object | null, value?: PushSignalsResponse) => void,
      ) => {
        call.on("data", (message: PushSignalsRequest) => fake.once.push(message));
        call.on("end", () => answer(null, PushSignalsResponse.fromPartial({ highWaterSeq: 2n })));
      },
    });
    fake.port = await new Promise((resolve, reject) =>
      server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) =>
        error ? reject(error) : resolve(port),
      ),
    );
    t.after(() => server.forceShutdown());
    return fake;
  }

  private serve(call: ServerDuplexStream<StreamSignalsRequest, StreamSignalsResponse>, script?: Script): void {
    const stream: StreamSignalsRequest[] = [];
    this.streams.push(stream);
    this.tokens.push(...call.metadata.get("authorization"));
    const { answers, code, details } = script ?? {};
    const finish = (): void => {
      if (script?.forgets) stream.length = 1;
      if (code === undefined) call.end();
      else call.emit("error", { code, details: "no", metadata: packed(details) });
    };
    call.on("error", () => {});
    if (answers?.length === 0) return finish();
    call.on("data", async (message: StreamSignalsRequest) => {
      if (answers && stream.length >= answers.length) return;
      stream.push(message);
      const place = stream.length;
      if (place === 1) await script?.wait;
      // As the real one: where to go on, what it has, and a last word.
      const usual = { ackedSeq: this.highest(), closed: message.message?.$case === "bye" };
      call.write(StreamSignalsResponse.fromPartial(answers ? (answers[place - 1] ?? {}) : usual));
      if (place === answers?.length || usual.closed) finish();
    });
    call.on("end", () => call.end());
  }

  /** The highest number ever seen. */
  private highest(): bigint {
    return this.streams.flatMap(batches).reduce((a, b) => (a > b ? a : b), 0n);
  }
}

function packed(details: [string, Uint8Array][] = []): Metadata {
  const writer = new BinaryWriter();
  for (const [name, value] of details) {
    const any = new BinaryWriter().tag(1, 2).string(`type.googleapis.com/${name}`).tag(2, 2).bytes(value).finish();
    writer.tag(3, 2).bytes(any);
  }
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(writer.finish()));
  return metadata;
}

const batches = (stream: StreamSignalsRequest[] = []): bigint[] =>
  stream.flatMap(({ message }) => (message?.$case === "batch" ? [message.value.seq] : []));

const epoch = (stream: StreamSignalsRequest[] = []): bigint | undefined => {
  const first = stream[0]?.message;
  return first?.$case === "hello" ? first.value.epoch : undefined;
};

function client(fake: Fake, more: Partial<Options> = {}): SignalClient {
  const target = parseTarget(`127.0.0.1:${fake.port}`);
  return new SignalClient({
    target, token: "agt_x", environment: "stage", monitorId: "edge", ...more,
  });
}

const reading = { app: "web", cpuUtilization: 0.5 };

async function until(is: () => boolean): Promise<void> {
  while (!is()) await new Promise((resolve) => setTimeout(resolve, 5));
}

test("a stream has hello, numbered batches and a goodbye", async (t) => {
  const fake = await Fake.start(t);
  const c = client(fake, { ttlMs: 3_000 });
  c.push(reading);
  c.push(reading, reading);
  assert.ok(await c.close("done"));
  const [hello, first, , bye] = fake.streams[0] ?? [];
  assert.ok(hello?.message?.$case === "hello" && first?.message?.$case === "batch" && bye?.message?.$case === "bye");
  const { monitorId, environment, defaultTtl } = hello.message.value;
  assert.deepEqual([monitorId, environment, defaultTtl?.seconds], ["edge", "stage", 3n]);
  assert.notEqual(epoch(fake.streams[0]), 0n);
  assert.deepEqual(batches(fake.streams[0]), [1n, 2n]);
  assert.ok(first.message.value.signals[0]?.time);
  assert.equal(bye.message.value.reason, "done");
  assert.deepEqual(fake.tokens, ["Bearer agt_x"]);
});

test("what was not acknowledged is sent again under its number", async (t) => {
  const fake = await Fake.start(t, { answers: [{}, {}, {}], code: status.UNAVAILABLE, forgets: true });
  const c = client(fake);
  for (let n = 0; n < 4; n += 1) c.push(reading);
  assert.ok(await c.close());
  assert.deepEqual(batches(fake.streams[1]), [1n, 2n, 3n, 4n], "nothing was acknowledged, so all of it");
  assert.equal(epoch(fake.streams[0]), epoch(fake.streams[1]));
  const { ackedSeq, pending, dropped, lostStreams } = c.stats();
  assert.deepEqual([ackedSeq, pending, dropped, lostStreams], [4, 0, 0, 1]);
});

test("what the server has is not sent again", async (t) => {
  const fake = await Fake.start(t, { answers: [{}, {}, {}], code: status.UNAVAILABLE });
  const c = client(fake);
  for (let n = 0; n < 4; n += 1) c.push(reading);
  assert.ok(await c.close());
  assert.deepEqual(fake.streams.flatMap(batches), [1n, 2n, 3n, 4n], "the first answer is the cursor");
});

test("nothing is sent before the server has said where to go on", async (t) => {
  let pushed!: () => void;
  const wait = new Promise<void>((resolve) => (pushed = resolve));
  const fake = await Fake.start(t, { answers: [{ ackedSeq: 2n }, { ackedSeq: 3n }, { ackedSeq: 3n, closed: true }], wait });
  const c = client(fake);
  for (let n = 0; n < 3; n += 1) c.push(reading);
  pushed();
  assert.ok(await c.close());
  assert.deepEqual(batches(fake.streams[0]), [3n], "the server said that it has two of them");
});

test("answers empty the buffer as the stream goes", async (t) => {
  const fake = await Fake.start(t);
  const c = client(fake, { buffer: 4 });
  for (let n = 0; n < 12; n += 1) {
    c.push(reading);
    await until(() => c.stats().pending <= 2);
  }
  assert.ok(await c.close());
  assert.equal(fake.streams.length, 1);
  assert.deepEqual(batches(fake.streams[0]), Array.from({ length: 12 }, (_, n) => BigInt(n + 1)));
  assert.equal(c.stats().dropped, 0);
});

test("counts are of all streams and of each answer once", async (t) => {
  const told = (seq: bigint): Answer => ({ ackedSeq: seq, accepted: seq, rejected: 1n });
  const fake = await Fake.start(
    t,
    { answers: [{}, told(1n), told(2n)], code: status.UNAVAILABLE },
    { answers: [{ ackedSeq: 2n }, { ackedSeq: 3n, accepted: 1n }, { ackedSeq: 3n, accepted: 1n, closed: true }] },
  );
  const c = client(fake);
  for (let n = 0; n < 3; n += 1) c.push(reading);
  assert.ok(await c.close());
  const { accepted, rejected, lostStreams } = c.stats();
  assert.deepEqual([accepted, rejected, lostStreams], [3, 1, 1]);
});

test("an end without an answer to the goodbye is a loss", async (t) => {
  const fake = await Fake.start(t, { answers: [{}] });
  const lines: string[] = [];
  const c = client(fake, { log: (line) => lines.push(line) });
  c.push(reading);
  assert.ok(await c.close());
  assert.equal(c.stats().lostStreams, 1);
  assert.match(lines[0] ?? "", /^lost: the stream ended without a goodbye; again in /);
});

test("a script pushes once and is told what became of it", async (t) => {
  const fake = await Fake.start(t);
  const target = parseTarget(`127.0.0.1:${fake.port}`);
  const options = { target, token: "agt_x", environment: "stage", monitorId: "edge", ttlMs: 3_000 };
  const summary = await pushOnce(options, Array.from({ length: 1_001 }, () => reading));
  assert.equal(summary.highWaterSeq, 2n);
  const sizes = fake.once.map(({ message }) => (message?.$case === "batch" ? message.value.signals.length : message?.$case));
  assert.deepEqual(sizes, ["hello", 1_000, 1, "bye"], "as few batches as the limits of the server allow");
  const nobody = { ...options, target: parseTarget("127.0.0.1:1") };
  await assert.rejects(pushOnce(nobody, [reading]), { code: status.UNAVAILABLE });
});

test("a server that is away costs the oldest and nothing else", async (t) => {
  const gone = { answers: [], code: status.UNAVAILABLE };
  const fake = await Fake.start(t, gone, gone, gone);
  const c = client(fake, { buffer: 5 });
  for (let n = 0; n < 20; n += 1) c.push(reading);
  assert.ok(await c.close());
  const got = new Set(fake.streams.slice(3).flatMap(batches));
  assert.ok(got.has(20n));
  assert.equal(c.stats().dropped, 20 - got.size);
});

test("a refusal is final and says why", async (t) => {
  const info = new BinaryWriter().tag(1, 2).string("ROLE_REQUIRED").finish();
  const fake = await Fake.start(t, {
    answers: [], code: status.PERMISSION_DENIED, details: [["google.rpc.ErrorInfo", info]],
  });
  const c = client(fake);
  c.push(reading);
  assert.equal(await c.close(), false);
  assert.deepEqual([c.refusal()?.code, c.refusal()?.reason], [status.PERMISSION_DENIED, "ROLE_REQUIRED"]);
  assert.equal(fake.streams.length, 1);
});

test("a stream cut for bad signals does not end the next one too", async (t) => {
  const summary = PushSignalsResponse.encode(PushSignalsResponse.fromPartial({ highWaterSeq: 1n, rejected: 100n }));
  const fake = await Fake.start(t, {
    answers: [{}, { ackedSeq: 1n, rejected: 60n }], code: status.INVALID_ARGUMENT, details: [["agentctl.v1.PushSignalsResponse", summary.finish()]],
  });
  const c = client(fake);
  c.push(reading);
  await until(() => c.stats().rejected === 100);
  c.push(reading);
  assert.ok(await c.close());
  assert.deepEqual(batches(fake.streams[1]), [2n], "only what is new");
});

test("the server says how long to wait", async (t) => {
  const retry = new BinaryWriter().tag(2, 0).int32(700_000_000).finish();
  const info = new BinaryWriter().tag(1, 2).bytes(retry).finish();
  const fake = await Fake.start(t, {
    answers: [], code: status.RESOURCE_EXHAUSTED, details: [["google.rpc.RetryInfo", info]],
  });
  const lines: string[] = [];
  const c = client(fake, { log: (line) => lines.push(line) });
  c.push(reading);
  assert.ok(await c.close());
  assert.deepEqual(lines, ["lost: no; again in 0.7 s"]);
});
