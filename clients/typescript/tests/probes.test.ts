import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { HostProbe, HttpProbe, ProcessProbe, quantile } from "../src/probes.js";

const folder = (): string => mkdtempSync(join(tmpdir(), "agentctl-"));

/** Writes a /proc with a host and the process 42. */
function proc(dir: string, busy: number, idle: number, ticks = 0, started = 5): string {
  mkdirSync(join(dir, "42"), { recursive: true });
  writeFileSync(join(dir, "stat"), `cpu ${busy} 0 0 ${idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n`);
  writeFileSync(join(dir, "meminfo"), "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n");
  // A name can hold brackets and spaces.
  const words = ["S", ...Array(10).fill(0), ticks, 0, ...Array(6).fill(0), started, 0, 10, 0];
  writeFileSync(join(dir, "42", "stat"), `42 (a) b) ${words.join(" ")}\n`);
  writeFileSync(join(dir, "42", "status"), "Name:\ta) b\nVmRSS:\t     100 kB\n");
  return dir;
}

test("the host is busy by what changed since the last look", () => {
  const dir = proc(folder(), 100, 100);
  const probe = new HostProbe(dir);
  assert.deepEqual(probe.look(), { memory: 0.75 }, "one look knows no share");
  proc(dir, 175, 125);
  assert.equal(probe.look().cpu, 0.75);
});

test("a process is measured against its limits, and a new one begins anew", () => {
  const dir = proc(folder(), 1, 1);
  const probe = new ProcessProbe("42", { cpus: 2, memory: 1_000 * 1_024 }, dir);
  assert.deepEqual(probe.look(0), { memory: 0.1 });
  proc(dir, 1, 1, 100);
  assert.deepEqual(probe.look(1_000), { memory: 0.1, cpu: 0.5 }, "one of two cores for one second");
  proc(dir, 1, 1, 9, 6);
  assert.equal(probe.look(2_000)?.cpu, undefined, "the same number, another process");
});

test("a process that is gone is unknown and not zero", () => {
  const file = join(folder(), "pid");
  const probe = new ProcessProbe(file);
  assert.equal(probe.look(), undefined, "nobody has written the file yet");
  writeFileSync(file, `${process.pid}\n`);
  assert.ok((probe.look()?.memory ?? 0) > 0);
  writeFileSync(file, "999999999");
  assert.equal(probe.look(), undefined);
});

test("a probe counts bad answers and no answers as errors", async () => {
  const web = createServer((request, answer) => {
    answer.statusCode = Number(request.url?.slice(1));
    answer.end("x");
  });
  await new Promise<void>((resolve) => web.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${(web.address() as AddressInfo).port}`;
  const probe = new HttpProbe(`${base}/200`, 1_000, 5_000);
  assert.equal(probe.take(), undefined, "nothing was asked: nothing is known");
  await probe.ask();
  const good = probe.take();
  assert.ok(good && good.errorRatio === 0 && good.p50 > 0 && good.p99 >= good.p50);
  for (const url of [`${base}/503`, `${base}/404`, "http://127.0.0.1:1/", "nonsense"]) {
    const bad = new HttpProbe(url, 1_000, 5_000);
    await bad.ask();
    assert.equal(bad.take()?.errorRatio, 1, url);
  }
  web.close();
});

test("quantiles are values that were seen", () => {
  const values = [0.3, 0.1, 0.2, 0.4];
  assert.deepEqual([quantile(values, 0.5), quantile(values, 0.99), quantile([7], 0.5)], [0.2, 0.4, 7]);
});
