/**
 * Time between attempts: doubling, capped, and never the same for two monitors. Each wait is uniform between half of a step and
 * the step; steps double from `firstMs` to `capMs`.
 */
export class Backoff {
  private attempt = 0;

  constructor(
    private readonly firstMs = 100,
    private readonly capMs = 5_000,
    private readonly draw: () => number = Math.random,
  ) {}

  /** The next wait in milliseconds. */
  nextWait(): number {
    const step = Math.min(this.firstMs * 2 ** Math.min(this.attempt, 16), this.capMs);
    this.attempt += 1;
    return step / 2 + (step / 2) * this.draw();
  }

  /** Starts again with the first step: something worked. */
  reset(): void {
    this.attempt = 0;
  }
}
