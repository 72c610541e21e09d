package signals

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

func some(n int, app string) []*v1.Signal {
	share := 0.5
	return slices.Repeat([]*v1.Signal{{App: app, CpuUtilization: &share}}, n)
}

func sequence(o *outbox, now time.Time) []uint64 {
	var found []uint64
	for seq := uint64(0); ; {
		next, any := o.after(seq, now)
		if !any {
			return found
		}
		seq = next.seq
		found = append(found, seq)
	}
}

func same[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, expected %v", what, got, want)
	}
}

func TestWhatIsNotAcknowledgedIsThereToBeSentAgainInOrder(t *testing.T) {
	now := time.Now()
	o := &outbox{limit: 100, maxAge: time.Minute}
	for range 4 {
		o.add(some(2, "web"), now)
	}
	same(t, "all", sequence(o, now), []uint64{1, 2, 3, 4})
	o.acknowledge(2)
	same(t, "the same numbers again", sequence(o, now), []uint64{3, 4})
	o.acknowledge(1)
	same(t, "an acknowledgement is never taken back", []uint64{o.acked, uint64(o.pending)}, []uint64{2, 4})
	o.acknowledge(99)
	same(t, "nothing is acknowledged that was never made", []uint64{o.acked, uint64(o.pending)}, []uint64{4, 0})
}

func TestAFullBufferDropsTheOldestAndCountsIt(t *testing.T) {
	now := time.Now()
	o := &outbox{limit: 5, maxAge: time.Minute}
	for range 4 {
		o.add(some(2, "web"), now)
	}
	same(t, "the newest", sequence(o, now), []uint64{3, 4})
	same(t, "dropped and pending", []uint64{o.dropped, uint64(o.pending)}, []uint64{4, 4})
	o.add(some(9, "web"), now)
	same(t, "the newest stays, whatever its size", sequence(o, now), []uint64{5})
}

func TestWhatIsTooOldToBeBelievedIsNotSent(t *testing.T) {
	now := time.Now()
	o := &outbox{limit: 100, maxAge: time.Minute}
	o.add(some(1, "web"), now)
	o.add(some(1, "web"), now.Add(50*time.Second))
	same(t, "the young one", sequence(o, now.Add(61*time.Second)), []uint64{2})
	same(t, "dropped", []uint64{o.dropped}, []uint64{1})
}

func TestBatchesKeepToTheLimitsOfTheServer(t *testing.T) {
	now := time.Now()
	o := &outbox{limit: 10_000, maxAge: time.Minute}
	o.add(some(2_500, "web"), now)
	var sizes []int
	for _, one := range o.batches {
		sizes = append(sizes, len(one.signals))
	}
	same(t, "signals", sizes, []int{1000, 1000, 500})
	big := &outbox{limit: 10_000, maxAge: time.Minute}
	big.add(some(3, strings.Repeat("x", batchBytes/2)), now)
	same(t, "bytes", sequence(big, now), []uint64{1, 2, 3})
	big.add(some(1, strings.Repeat("x", batchBytes+1)), now)
	same(t, "what no batch can hold is never sent", sequence(big, now), []uint64{1, 2, 3})
	same(t, "but counted", []uint64{big.dropped}, []uint64{1})
}

func TestWaitsDoubleUpToTheCapAndStartAgainAfterSuccess(t *testing.T) {
	longest, shortest := newBackoff(), newBackoff()
	longest.draw, shortest.draw = func() float64 { return 1 }, func() float64 { return 0 }
	for _, step := range []int{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		want := time.Duration(step) * time.Millisecond
		same(t, "wait", []time.Duration{longest.next(), shortest.next()}, []time.Duration{want, want / 2})
	}
	longest.reset()
	same(t, "again", []time.Duration{longest.next()}, []time.Duration{100 * time.Millisecond})
}
