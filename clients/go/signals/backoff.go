package signals

import (
	"math/rand/v2"
	"time"
)

// backoff is the time between attempts: doubling, capped, and never the same for two monitors. Each wait is uniform between half
// of a step and the step; steps double from first to limit.
type backoff struct {
	first, limit time.Duration
	draw         func() float64
	attempt      int
}

func newBackoff() *backoff {
	return &backoff{first: 100 * time.Millisecond, limit: 5 * time.Second, draw: rand.Float64}
}

// next is the next wait.
func (b *backoff) next() time.Duration {
	step := min(b.first<<min(b.attempt, 16), b.limit)
	b.attempt++
	half := step / 2
	return half + time.Duration(float64(half)*b.draw())
}

// reset starts again with the first step: something worked.
func (b *backoff) reset() { b.attempt = 0 }
