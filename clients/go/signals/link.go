package signals

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

// The server answers at least every 10 s: one that says nothing for three times as long is as good as gone.
const silence = 30 * time.Second

var (
	errSilent   = errors.New("no answer from the server")
	errNoAnswer = errors.New("the stream ended without a goodbye")
)

// link is one stream of StreamSignals, from Hello to the goodbye.
//
// The first answer is the cursor: what the server has heard of this run of the monitor is not sent again, and everything behind it is,
// under the same numbers. From then on answers acknowledge as the stream goes. A stream that ends in any other way than by an answered
// goodbye is lost, and another one goes on where the server says.
type link struct {
	client *Client
	stream grpc.BidiStreamingClient[v1.StreamSignalsRequest, v1.StreamSignalsResponse]
	// Has the number to go on behind, once the first answer came.
	cursor chan uint64
	// Closed when the stream is over.
	over chan struct{}
}

// runStream serves one stream; nil when its goodbye was answered.
func (c *Client) runStream(connection *grpc.ClientConn) error {
	ctx, cancel := context.WithCancelCause(c.life)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.options.Token)
	stream, err := v1.NewTelemetryServiceClient(connection).StreamSignals(ctx)
	if err != nil {
		cancel(nil)
		return err
	}
	l := &link{client: c, stream: stream, cursor: make(chan uint64, 1), over: make(chan struct{})}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		l.send()
	}()
	// The next stream must not share what wakes this one.
	defer func() {
		cancel(nil)
		<-gone
	}()
	failure := l.receive(func() { cancel(errSilent) })
	if errors.Is(context.Cause(ctx), errSilent) {
		return errSilent
	}
	return failure
}

// receive takes the answers until the stream is over, and calls late when there was none for too long. What Send says is only that
// the stream is over; why is here.
func (l *link) receive(late func()) error {
	defer close(l.over)
	patience := time.AfterFunc(silence, late)
	defer patience.Stop()
	for first := true; ; first = false {
		answer, err := l.stream.Recv()
		switch {
		case err == io.EOF:
			return errNoAnswer
		case err != nil:
			return err
		}
		patience.Reset(silence)
		l.client.take(answer)
		if first {
			l.cursor <- answer.GetAckedSeq()
		}
		if answer.GetClosed() {
			return nil
		}
	}
}

// send sends Hello, what the outbox has, and Bye.
func (l *link) send() {
	hello := &v1.StreamSignalsRequest_Hello{Hello: l.client.hello}
	if l.stream.Send(&v1.StreamSignalsRequest{Message: hello}) != nil {
		return
	}
	var sent uint64
	select {
	case sent = <-l.cursor:
	case <-l.over:
		return
	}
	for {
		next, bye := l.next(sent)
		message := new(v1.StreamSignalsRequest)
		switch {
		case next != nil:
			sent = next.seq
			batch := &v1.SignalBatch{Seq: next.seq, SentTime: timestamppb.Now(), Signals: next.signals}
			message.Message = &v1.StreamSignalsRequest_Batch{Batch: batch}
		case bye != nil:
			message.Message = &v1.StreamSignalsRequest_Bye{Bye: bye}
		default:
			return
		}
		if l.stream.Send(message) != nil {
			return
		}
		if bye != nil {
			_ = l.stream.CloseSend()
			return
		}
	}
}

// next is the next batch; or the goodbye behind the last one; or neither when the stream is over.
func (l *link) next(sent uint64) (*batch, *v1.Bye) {
	c := l.client
	for {
		c.lock.Lock()
		found, any := c.outbox.after(sent, time.Now())
		leaving := c.leaving
		c.lock.Unlock()
		switch {
		case any:
			return &found, nil
		case leaving != nil:
			return nil, &v1.Bye{Reason: *leaving}
		}
		select {
		case <-c.changed:
		case <-l.over:
			return nil, nil
		}
	}
}
