import { BinaryReader } from "@bufbuild/protobuf/wire";
import type { ServiceError } from "@grpc/grpc-js";

import { PushSignalsResponse } from "./generated/agentctl/v1/telemetry.js";

/** What an error of the server says beside its code and message. */
export interface Details {
  /** `google.rpc.ErrorInfo.reason`. */
  reason?: string;
  /** `google.rpc.RetryInfo.retry_delay`. */
  retryMs?: number;
  /** What became of a stream that was cut for its bad signals. */
  summary?: PushSignalsResponse;
}

/** Reads `google.rpc.Status` out of the trailers: the three messages of it that matter here, without generated code for all. */
export function detailsOf(error: ServiceError): Details {
  const found: Details = {};
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!(packed instanceof Buffer)) return found;
  try {
    for (const any of fields(packed).get(3) ?? []) {
      const parts = fields(any as Uint8Array);
      const name = text(parts.get(1)?.[0]).replace(/^.*\//, "");
      const value = (parts.get(2)?.[0] ?? new Uint8Array()) as Uint8Array;
      if (name === "google.rpc.ErrorInfo") found.reason = text(fields(value).get(1)?.[0]);
      if (name === "google.rpc.RetryInfo") found.retryMs = milliseconds(fields(value).get(1)?.[0]);
      if (name === "agentctl.v1.PushSignalsResponse") found.summary = PushSignalsResponse.decode(value);
    }
  } catch {
    // Details that cannot be read are none: the code and the message of the error stand by themselves.
  }
  return found;
}

type Value = Uint8Array | bigint;

/** The fields of a message by number: bytes and varints, which is all these messages have. */
function fields(bytes: Uint8Array): Map<number, Value[]> {
  const reader = new BinaryReader(bytes);
  const found = new Map<number, Value[]>();
  while (reader.pos < reader.len) {
    const [number, type] = reader.tag();
    if (type !== 0 && type !== 2) {
      reader.skip(type, number);
      continue;
    }
    const value = type === 2 ? reader.bytes() : BigInt(reader.int64());
    found.set(number, [...(found.get(number) ?? []), value]);
  }
  return found;
}

function text(value: Value | undefined): string {
  return value instanceof Uint8Array ? new TextDecoder().decode(value) : "";
}

function milliseconds(duration: Value | undefined): number {
  const parts = duration instanceof Uint8Array ? fields(duration) : new Map<number, Value[]>();
  return Number(parts.get(1)?.[0] ?? 0n) * 1_000 + Number(parts.get(2)?.[0] ?? 0n) / 1e6;
}
