import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";

import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Metadata, Server, ServerCredentials, type ServerReadableStream, status } from "@grpc/grpc-js";

import { type Options, parseTarget, SignalClient } from "../src/client.js";
import {
  PushSignalsRequest,
  PushSignalsResponse,
  TelemetryServiceService,
} from "../src/generated/agentctl/v1/telemetry.js";

/** A status and after how many messages a stream ends with it. */
interface Failure {
  after: number;
  code: status;
  details?: [string, Uint8Array][];
}

/** A server that does what a test tells it, for what a real one cannot be asked to do: it fails so often, then takes everything. */
class Fake {
  readonly streams: PushSignalsRequest[][] = [];
  readonly tokens: unknown[] = [];
  port = 0;

  static async start(t: TestContext, ...script: Failure[]): Promise<Fake> {
    const fake = new Fake();
    const server = new Server();
    server.addService(TelemetryServiceService, {
      pushSignals: (
        call: ServerReadableStream<PushSignalsRequest, PushSignalsResponse>,
        answer: (error: object | null, value?: PushSignalsResponse) => void,
      ) => {
        const failure = script.shift();
        const stream: PushSignalsRequest[] = [];
        fake.streams.push(stream);
        fake.tokens.push(...call.metadata.get("authorization"));
        const fail = (): void => answer({ code: failure?.code, details: "no", metadata: packed(failure?.details) });
        if (failure?.after === 0) return fail();
        call.on("data", (message: PushSignalsRequest) => {
          stream.push(message);
          if (stream.length === failure?.after) fail();
        });
        call.on("end", () => {
          const highWaterSeq = fake.streams.flatMap(batches).reduce((a, b) => (a > b ? a : b), 0n);
          if (!failure) answer(null, PushSignalsResponse.fromPartial({ highWaterSeq }));
        });
        call.on("error", () => {});
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

const batches = (stream: PushSignalsRequest[] = []): bigint[] =>
  stream.flatMap(({ message }) => (message?.$case === "batch" ? [message.value.seq] : []));

const epoch = (stream: PushSignalsRequest[] = []): bigint | undefined => {
  const first = stream[0]?.message;
  return first?.$case === "hello" ? first.value.epoch : undefined;
};

function client(fake: Fake, more: Partial<Options> = {}): SignalClient {
  const target = parseTarget(`127.0.0.1:${fake.port}`);
  return new SignalClient({
    target, token: "agt_x", environment: "stage", monitorId: "edge", ackEveryMs: 30_000, ...more,
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
  const fake = await Fake.start(t, { after: 3, code: status.UNAVAILABLE });
  const c = client(fake);
  for (let n = 0; n < 4; n += 1) c.push(reading);
  assert.ok(await c.close());
  assert.deepEqual(batches(fake.streams[0]).slice(0, 2), [1n, 2n]);
  assert.deepEqual(batches(fake.streams[1]), [1n, 2n, 3n, 4n], "the summary never came, so all of it");
  assert.equal(epoch(fake.streams[0]), epoch(fake.streams[1]));
  const { ackedSeq, pending, dropped, lostStreams } = c.stats();
  assert.deepEqual([ackedSeq, pending, dropped, lostStreams], [4, 0, 0, 1]);
});

test("a summary now and then empties the buffer", async (t) => {
  const fake = await Fake.start(t);
  const c = client(fake, { buffer: 4 });
  for (let n = 0; n < 12; n += 1) {
    c.push(reading);
    // Half full is the moment to ask; nothing is lost as long as the server answers.
    await until(() => c.stats().pending <= 2);
  }
  assert.ok(await c.close());
  assert.ok(fake.streams.length > 1);
  assert.deepEqual(fake.streams.flatMap(batches), Array.from({ length: 12 }, (_, n) => BigInt(n + 1)));
  assert.equal(c.stats().dropped, 0);
});

test("a server that is away costs the oldest and nothing else", async (t) => {
  const gone = { after: 0, code: status.UNAVAILABLE };
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
    after: 0, code: status.PERMISSION_DENIED, details: [["google.rpc.ErrorInfo", info]],
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
    after: 2, code: status.INVALID_ARGUMENT, details: [["agentctl.v1.PushSignalsResponse", summary.finish()]],
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
    after: 0, code: status.RESOURCE_EXHAUSTED, details: [["google.rpc.RetryInfo", info]],
  });
  const lines: string[] = [];
  const c = client(fake, { log: (line) => lines.push(line) });
  c.push(reading);
  assert.ok(await c.close());
  assert.deepEqual(lines, ["lost: no; again in 0.7 s"]);
});
