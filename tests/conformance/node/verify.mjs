// Verifies a log directory with nothing but node:crypto: node verify.mjs DIR
// FROM is the minimum index of a log that was pruned: before it there are only hashes.
import assert from "node:assert/strict";
import { createHash, createPublicKey, verify } from "node:crypto";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

const directory = process.argv[2];
const from = Number(process.env.FROM ?? 0);
const read = (name) => readFileSync(join(directory, name));
const sha256 = (...parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
};
const leafHash = (entry) => sha256(Buffer.from([0]), entry);
const nodeHash = (left, right) => sha256(Buffer.from([1]), left, right);

function checkpoint(note) {
  const [name, id, key] = read("log.vkey").toString().trim().split("+");
  const raw = Buffer.from(read("log.vkey").toString().trim().slice(name.length + id.length + 2), "base64");
  assert(key.length > 0 && raw[0] === 1, "Ed25519");
  assert.equal(sha256(Buffer.from(`${name}\n`), raw).subarray(0, 4).toString("hex"), id);
  const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw.subarray(1)]);
  const publicKey = createPublicKey({ key: spki, format: "der", type: "spki" });
  const at = note.lastIndexOf("\n\n") + 1;
  const [text, line] = [note.slice(0, at), note.slice(at + 1).trimEnd()];
  const [dash, signer, signature] = line.split(" ");
  const bytes = Buffer.from(signature, "base64");
  assert.deepEqual([dash, signer, bytes.subarray(0, 4).toString("hex")], ["\u2014", name, id]);
  assert(verify(null, Buffer.from(text), publicKey, bytes.subarray(4)), "signature");
  const [origin, size, root] = text.split("\n");
  assert.equal(origin, name);
  return { origin, size: Number(size), root: Buffer.from(root, "base64") };
}

function path(kind, index, width) {
  let digits = String(index);
  digits = digits.padStart(Math.ceil(digits.length / 3) * 3, "0");
  const groups = digits.match(/.{3}/g);
  const name = groups.map((group, i) => (i + 1 < groups.length ? `x${group}` : group)).join("/");
  return `tile/${kind}/${name}${width === 256 ? "" : `.p/${width}`}`;
}

function* entries(size) {
  for (let first = from; first < size; first += 256) {
    let data = read(path("entries", first / 256, Math.min(256, size - first)));
    while (data.length > 0) {
      const length = data.readUInt16BE();
      yield data.subarray(2, 2 + length);
      data = data.subarray(2 + length);
    }
  }
}

// RFC 6962 section 2.1, from the bottom up: subtrees of equal size are joined as soon as there are two.
function rootOf(leaves) {
  const stack = [];
  for (const leaf of leaves) {
    let [hash, level] = [leaf, 0];
    while (stack.length > 0 && stack.at(-1).level === level) {
      hash = nodeHash(stack.pop().hash, hash);
      level += 1;
    }
    stack.push({ hash, level });
  }
  if (stack.length === 0) return sha256();
  return stack.map(({ hash }) => hash).reduceRight((right, left) => nodeHash(left, right));
}

// RFC 9162 section 2.1.3.2.
function included(hash, index, size, proof, root) {
  let [fn, sn] = [index, size - 1];
  for (const sibling of proof) {
    assert(sn > 0, "too long");
    if (fn % 2 === 1 || fn === sn) {
      hash = nodeHash(sibling, hash);
      while (fn % 2 === 0 && fn !== 0) [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)];
    } else {
      hash = nodeHash(hash, sibling);
    }
    [fn, sn] = [Math.floor(fn / 2), Math.floor(sn / 2)];
  }
  assert(sn === 0 && hash.equals(root), "inclusion");
}

const { origin, size, root } = checkpoint(read("checkpoint").toString());
const pruned = Array.from({ length: from }, (_, index) => {
  const tile = read(path("0", Math.floor(index / 256), 256));
  return tile.subarray((index % 256) * 32, (index % 256) * 32 + 32);
});
const kept = [...entries(size)].map(leafHash);
const leaves = [...pruned, ...kept];
assert.equal(leaves.length, size);
assert(rootOf(leaves).equals(root), "root");
for (let first = 0; first < size; first += 256) {
  const width = Math.min(256, size - first);
  assert(read(path("0", first / 256, width)).equals(Buffer.concat(leaves.slice(first, first + width))));
}
const files = existsSync(join(directory, "proofs")) ? readdirSync(join(directory, "proofs")) : [];
for (const file of files) {
  const text = read(join("proofs", file)).toString();
  const [head] = text.split("\n\n", 1);
  const [magic, ...rest] = head.split("\n");
  assert.equal(magic, "c2sp.org/tlog-proof@v1");
  // The proof of a pruned entry does not carry it.
  const extra = rest[0].startsWith("extra ") ? rest.shift() : undefined;
  const at = Number(rest.shift().slice("index ".length));
  const hashes = rest;
  const signed = checkpoint(text.slice(head.length + 2));
  const leaf = extra ? leafHash(Buffer.from(extra.slice("extra ".length), "base64")) : leaves[at];
  const proof = hashes.map((hash) => Buffer.from(hash, "base64"));
  included(leaf, at, signed.size, proof, signed.root);
}
console.log(`verified: ${kept.length} entries of ${origin}`);
