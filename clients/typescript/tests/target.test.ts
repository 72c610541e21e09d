import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { parseTarget, readToken } from "../src/client.js";
import { configure } from "../src/monitor.js";

function tokenFile(content: string | Buffer, mode = 0o600): string {
  const file = join(mkdtempSync(join(tmpdir(), "agentctl-")), "token");
  writeFileSync(file, content);
  chmodSync(file, mode);
  return file;
}

test("plain text stays on this host", () => {
  const cases: [string, boolean, string, boolean][] = [
    ["127.0.0.1:7443", false, "127.0.0.1:7443", false],
    ["[::1]:7443", false, "[::1]:7443", false],
    ["localhost:7443", false, "localhost:7443", false],
    ["https://localhost:7443", false, "localhost:7443", true],
    ["agentd.example:7443", false, "agentd.example:7443", true],
    ["agentd.example:7443", true, "agentd.example:7443", false],
  ];
  for (const [address, plaintext, authority, tls] of cases) {
    assert.deepEqual(parseTarget(address, undefined, plaintext), { authority, tls }, address);
  }
  assert.throws(() => parseTarget("http://agentd.example:7443"), /plain text/);
});

test("what is no address is refused with its value", () => {
  for (const address of ["", "web", "web:", "web:0x50", "web:99999", "ftp://web:1", "a@web:1", "web:1/x"]) {
    assert.throws(() => parseTarget(address), /invalid address/, address);
  }
});

test("a token comes from a file or from the environment", () => {
  const file = tokenFile("agt_file\n");
  assert.equal(readToken(file, { AGENTCTL_TOKEN: "agt_env" }), "agt_file");
  assert.equal(readToken(undefined, { AGENTCTL_TOKEN: "agt_env" }), "agt_env");
  assert.equal(readToken(undefined, { AGENTCTL_TOKEN: "agt_env", AGENTCTL_TOKEN_FILE: file }), "agt_file");
  assert.throws(() => readToken(undefined, {}), /no token/);
});

test("a token file that others can read is not used", () => {
  assert.throws(() => readToken(tokenFile("agt_x", 0o644), {}), /chmod 600/);
});

test("what is no token is never sent and never shown", () => {
  for (const content of ["", "two words", "agt_\u001b[31m", Buffer.from([0xff, 0xfe]), "x".repeat(600)]) {
    assert.throws(
      () => readToken(tokenFile(content), {}),
      (error: Error) => /holds no token/.test(error.message) && !error.message.includes("words"),
    );
  }
});

test("a wrong command line is answered with what to do", () => {
  const cases: [string, RegExp][] = [
    ["--app web --env stage --url x --token agt_x", /--token/],
    ["--app web --env stage", /nothing to measure/],
    ["--app web --env stage --host --pid 1", /leave out one/],
    ["--app web --env stage --host --every 5", /invalid time/],
    ["--app web --host", /required/],
  ];
  for (const [line, says] of cases) {
    assert.throws(() => configure(line.split(" "), { AGENTCTL_TOKEN: "agt_x" }), says, line);
  }
});
