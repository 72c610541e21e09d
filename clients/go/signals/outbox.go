package signals

import (
	"time"

	"google.golang.org/protobuf/proto"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

// Limits of the server for one batch; the bytes leave room for what surrounds the signals.
const (
	batchSignals = 1_000
	batchBytes   = 900 * 1024
)

// batch is signals under one sequence number.
type batch struct {
	seq     uint64
	signals []*v1.Signal
	queued  time.Time
}

// outbox holds the signals that the server has not acknowledged yet: numbered, bounded, in order. It keeps at most limit signals,
// none older than maxAge; the oldest give way and are counted.
//
// It knows nothing of streams. Whoever sends asks for the batch behind the last one it sent, and calls acknowledge whenever it
// learns that the server has everything up to a number.
type outbox struct {
	limit   int
	maxAge  time.Duration
	batches []batch
	lastSeq uint64
	acked   uint64
	pending int
	dropped uint64
}

// add takes signals in, as few batches as the server's limits allow. One that could never be sent is dropped.
func (o *outbox) add(signals []*v1.Signal, now time.Time) {
	var part []*v1.Signal
	size := 0
	for _, signal := range signals {
		cost := proto.Size(signal) + 8
		if cost > batchBytes {
			o.dropped++
			continue
		}
		if len(part) > 0 && (len(part) == batchSignals || size+cost > batchBytes) {
			o.append(part, now)
			part, size = nil, 0
		}
		part, size = append(part, signal), size+cost
	}
	if len(part) > 0 {
		o.append(part, now)
	}
}

func (o *outbox) append(signals []*v1.Signal, now time.Time) {
	o.lastSeq++
	o.batches = append(o.batches, batch{o.lastSeq, signals, now})
	o.pending += len(signals)
	// The newest batch stays, whatever its size: it is what the server should know.
	for o.pending > o.limit && len(o.batches) > 1 {
		o.dropOldest()
	}
}

func (o *outbox) dropOldest() {
	gone := len(o.batches[0].signals)
	o.shift()
	o.dropped += uint64(gone)
}

func (o *outbox) shift() {
	o.pending -= len(o.batches[0].signals)
	o.batches[0] = batch{}
	o.batches = o.batches[1:]
}

// after is the first batch with a higher number than seq, after dropping what is too old to be believed.
func (o *outbox) after(seq uint64, now time.Time) (batch, bool) {
	for len(o.batches) > 0 && now.Sub(o.batches[0].queued) > o.maxAge {
		o.dropOldest()
	}
	for _, candidate := range o.batches {
		if candidate.seq > seq {
			return candidate, true
		}
	}
	return batch{}, false
}

// acknowledge notes that the server has everything up to seq.
func (o *outbox) acknowledge(seq uint64) {
	seq = min(seq, o.lastSeq)
	o.acked = max(o.acked, seq)
	for len(o.batches) > 0 && o.batches[0].seq <= seq {
		o.shift()
	}
}
