package signals

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

// Time for the summary after Bye.
const summaryTimeout = 10 * time.Second

// runStream serves one stream of PushSignals, from Hello to the summary.
//
// This stream acknowledges at its end: so it is ended now and then (Options.AckEvery, or when the buffer is half full) and opened
// again with the same epoch. A stream that acknowledges as it goes would be another method of this shape, calling
// outbox.acknowledge for each message it receives; the rest of the client would not change.
func (c *Client) runStream(connection *grpc.ClientConn) (*v1.PushSignalsResponse, error) {
	// The server may take no longer than this to say what it has, or it is as good as gone.
	ctx, cancel := context.WithTimeout(c.life, c.options.AckEvery+summaryTimeout)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.options.Token)
	stream, err := v1.NewTelemetryServiceClient(connection).PushSignals(ctx)
	if err != nil {
		return nil, err
	}
	// The answer is waited for from the start: a stream that the server ends shows there and nowhere else.
	over := make(chan struct{})
	summary := new(v1.PushSignalsResponse)
	var failure error
	go func() {
		defer close(over)
		failure = stream.RecvMsg(summary)
	}()
	c.send(stream, over)
	// What Send says is only that the stream is over; why is in the answer.
	<-over
	return summary, failure
}

// send sends Hello, what the outbox has, and Bye.
func (c *Client) send(stream grpc.ClientStreamingClient[v1.PushSignalsRequest, v1.PushSignalsResponse], over <-chan struct{}) {
	due := time.NewTimer(c.options.AckEvery)
	defer due.Stop()
	var sent uint64
	err := stream.Send(&v1.PushSignalsRequest{Message: &v1.PushSignalsRequest_Hello{Hello: c.hello}})
	for err == nil {
		next, bye := c.next(over, sent, due)
		switch {
		case next != nil:
			sent = next.seq
			message := &v1.SignalBatch{Seq: next.seq, SentTime: timestamppb.Now(), Signals: next.signals}
			err = stream.Send(&v1.PushSignalsRequest{Message: &v1.PushSignalsRequest_Batch{Batch: message}})
		case bye != nil:
			if stream.Send(&v1.PushSignalsRequest{Message: &v1.PushSignalsRequest_Bye{Bye: bye}}) == nil {
				_ = stream.CloseSend()
			}
			return
		default:
			return
		}
	}
}

// next is the next batch; or the goodbye; or neither when the stream is over.
func (c *Client) next(over <-chan struct{}, sent uint64, due *time.Timer) (*batch, *v1.Bye) {
	isDue := false
	for {
		c.lock.Lock()
		found, any := c.outbox.after(sent, time.Now())
		unacknowledged := sent > c.outbox.acked
		// What was sent and waits for its acknowledgement must not push out what was not.
		full := c.outbox.crowded() && unacknowledged
		leaving := c.leaving
		c.lock.Unlock()
		switch {
		case leaving == nil && (full || isDue && (!any || unacknowledged)):
			return nil, &v1.Bye{Reason: "checkpoint"}
		case any:
			return &found, nil
		case leaving != nil:
			return nil, &v1.Bye{Reason: *leaving}
		}
		select {
		case <-c.changed:
		case <-due.C:
			isDue = true
		case <-over:
			return nil, nil
		}
	}
}
