import { closeSync, fstatSync, openSync, readFileSync } from "node:fs";
import { isIPv4, isIPv6 } from "node:net";

import { type ChannelCredentials, type ClientOptions, credentials } from "@grpc/grpc-js";

/** The address or the token cannot be used; the text says what to do. */
export class BadTarget extends Error {}

/** Where the server is, and whether the way there is encrypted. */
export interface Target {
  /** `host:port`. */
  readonly authority: string;
  readonly tls: boolean;
  /** Certificates to trust instead of those of this host, PEM. */
  readonly roots?: Buffer;
}

/** `HOST:PORT` or `https://HOST:PORT`. Plain text goes to this host alone, unless it is asked for. */
export function parseTarget(address: string, tlsCa?: string, plaintext = false): Target {
  const match = /^(?:(https?):\/\/)?(([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5}))$/.exec(address);
  const [, scheme, authority, host, port] = match ?? [];
  if (!authority || !host || Number(port) < 1 || Number(port) > 65_535) {
    throw new BadTarget(`invalid address \`${address}\`, expected HOST:PORT or https://HOST:PORT`);
  }
  let tls = scheme === "https" || tlsCa !== undefined;
  if (plaintext && tls) throw new BadTarget("plain text and TLS at once, leave out one of them");
  if (!tls && !plaintext && !isLoopback(host)) {
    if (scheme === "http") {
      throw new BadTarget("the token would cross the network in plain text, use https:// or --plaintext");
    }
    tls = true;
  }
  return tlsCa === undefined ? { authority, tls } : { authority, tls, roots: read(tlsCa) };
}

function isLoopback(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, "");
  return host === "localhost" || (isIPv4(bare) && bare.startsWith("127.")) || (isIPv6(bare) && bare === "::1");
}

function read(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new BadTarget(`cannot read \`${path}\`: ${(error as NodeJS.ErrnoException).code}`);
  }
}

/** What a connection to `target` is made with. */
export function connection(target: Target): [string, ChannelCredentials, Partial<ClientOptions>] {
  const secure = target.tls ? credentials.createSsl(target.roots ?? null) : credentials.createInsecure();
  const options = {
    // How long to wait is decided in one place, which is not the channel.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
    // A server that is gone without a word is noticed within 30 seconds.
    "grpc.keepalive_time_ms": 20_000,
    "grpc.keepalive_timeout_ms": 10_000,
  };
  return [target.authority, secure, options];
}

/** The token in `tokenFile`, or in the file AGENTCTL_TOKEN_FILE names, or in AGENTCTL_TOKEN. */
export function readToken(tokenFile?: string, env: NodeJS.ProcessEnv = process.env): string {
  const path = tokenFile || env["AGENTCTL_TOKEN_FILE"];
  const token = (path ? readPrivate(path) : (env["AGENTCTL_TOKEN"] ?? "")).trim();
  if (!path && token === "") {
    throw new BadTarget("no token: name a file with --token-file, or set AGENTCTL_TOKEN");
  }
  if (!/^[!-~]{1,512}$/.test(token)) {
    const origin = path ? `\`${path}\`` : "AGENTCTL_TOKEN";
    throw new BadTarget(`${origin} holds no token, expected one line such as agt_…`);
  }
  return token;
}

function readPrivate(path: string): string {
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    throw new BadTarget(`cannot read \`${path}\`: ${(error as NodeJS.ErrnoException).code}`);
  }
  try {
    const mode = fstatSync(file).mode & 0o777;
    if (mode & 0o077) {
      const octal = mode.toString(8).padStart(4, "0");
      throw new BadTarget(`\`${path}\` can be read by others (mode ${octal}), run \`chmod 600 ${path}\``);
    }
    return readFileSync(file, "latin1");
  } finally {
    closeSync(file);
  }
}
