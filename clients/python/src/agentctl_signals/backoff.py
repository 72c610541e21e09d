"""Time between attempts: doubling, capped, and never the same for two monitors."""

import random


class Backoff:
    """Each wait is uniform between half of a step and the step; steps double from `first` to `cap` seconds."""

    def __init__(self, first: float = 0.1, cap: float = 5.0, draw=random.random) -> None:
        self._first, self._cap, self._draw = first, cap, draw
        self._attempt = 0

    def next_wait(self) -> float:
        """The next wait in seconds."""
        step = min(self._first * 2 ** min(self._attempt, 16), self._cap)
        self._attempt += 1
        return step / 2 + step / 2 * self._draw()

    def reset(self) -> None:
        """Starts again with the first step: something worked."""
        self._attempt = 0
