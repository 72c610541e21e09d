/** Milliseconds as the messages have them: whole seconds and nanoseconds. */
export interface Span {
  seconds: bigint;
  nanos: number;
}

/** A time since 1970. */
export function timestamp(ms: number): Span {
  return duration(ms);
}

/** A span. */
export function duration(ms: number): Span {
  const whole = Math.round(ms);
  return { seconds: BigInt(Math.floor(whole / 1_000)), nanos: (whole % 1_000) * 1_000_000 };
}
