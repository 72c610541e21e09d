// Package signals pushes health signals to agentd: Client numbers, buffers, sends and resends them, PushOnce sends some and ends.
package signals

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

// Signal is what a monitor saw of one app.
type Signal = v1.Signal

// Options say who pushes where. Zero values mean the defaults.
type Options struct {
	Target Target
	Token  string
	// Environment the server serves.
	Environment string
	// MonitorID is stable across restarts of the monitor.
	MonitorID string
	// TTL is how long a signal counts as fresh; 0: as the server has it. A shorter life makes the agent less sure of it.
	TTL time.Duration
	// Buffer is how many signals are kept while they are not acknowledged; the oldest give way. 10,000.
	Buffer int
	// MaxAge drops what waited longer: the server takes nothing older than five minutes. Four minutes.
	MaxAge time.Duration
	// Log is told in one line what happens to the connection and to the signals.
	Log func(line string)
}

// Stats is what became of the signals so far.
type Stats struct {
	// Batches made, and the highest of them the server has acknowledged.
	LastSeq  uint64 `json:"last_seq"`
	AckedSeq uint64 `json:"acked_seq"`
	// Signals that wait, and that gave way to newer ones.
	Pending int    `json:"pending"`
	Dropped uint64 `json:"dropped"`
	// As the server counted them.
	Accepted   uint64 `json:"accepted"`
	Duplicates uint64 `json:"duplicates"`
	Rejected   uint64 `json:"rejected"`
	Missed     uint64 `json:"missed"`
	// Streams that ended without an answered goodbye.
	LostStreams uint64 `json:"lost_streams"`
}

// Refused is what the server said where another attempt would change nothing.
type Refused struct {
	Code    codes.Code
	Message string
	// Reason is the reason code, such as ROLE_REQUIRED.
	Reason string
}

func (r *Refused) Error() string { return fmt.Sprintf("%s (%s)", r.Message, r.Reason) }

// Client pushes signals to one agentd: they go in without waiting, and a goroutine takes them there.
type Client struct {
	options Options
	hello   *v1.Hello
	// Ends when the time to leave is over.
	life context.Context
	end  context.CancelFunc
	done chan struct{}
	// Has an item when something below changed.
	changed chan struct{}

	lock    sync.Mutex
	outbox  outbox
	leaving *string
	refused *Refused
	waits   *backoff
	// What the streams that are over counted, and what the present one has counted so far.
	past Stats
	told *v1.StreamSignalsResponse
}

// New starts a client. It connects by itself, again and again, until Close.
func New(options Options) *Client {
	if options.Buffer == 0 {
		options.Buffer = 10_000
	}
	if options.MaxAge == 0 {
		options.MaxAge = 4 * time.Minute
	}
	if options.Log == nil {
		options.Log = func(string) {}
	}
	client := &Client{
		options: options,
		hello:   options.hello(),
		waits:   newBackoff(),
		done:    make(chan struct{}),
		changed: make(chan struct{}, 1),
		outbox:  outbox{limit: options.Buffer, maxAge: options.MaxAge},
	}
	client.life, client.end = context.WithCancel(context.Background())
	go client.run()
	return client
}

// hello says who pushes. Each call is another run of the monitor.
func (o *Options) hello() *v1.Hello {
	// Zero is the one number that says nothing.
	hello := &v1.Hello{MonitorId: o.MonitorID, Environment: o.Environment, Epoch: max(rand.Uint64(), 1)}
	if o.TTL > 0 {
		hello.DefaultTtl = durationpb.New(o.TTL)
	}
	return hello
}

// timed gives a signal without a time the present one: it was measured now.
func timed(signals []*Signal) {
	for _, signal := range signals {
		if signal.Time == nil {
			signal.Time = timestamppb.Now()
		}
	}
}

// Push queues signals and returns at once. A signal without a time was measured now. After a refusal they go nowhere.
func (c *Client) Push(signals ...*Signal) {
	timed(signals)
	c.lock.Lock()
	c.outbox.add(signals, time.Now())
	c.lock.Unlock()
	c.wake()
}

// Stats is what became of the signals so far.
func (c *Client) Stats() Stats {
	c.lock.Lock()
	defer c.lock.Unlock()
	stats := c.counted()
	stats.LastSeq, stats.AckedSeq = c.outbox.lastSeq, c.outbox.acked
	stats.Pending, stats.Dropped = c.outbox.pending, c.outbox.dropped
	return stats
}

// Refusal is what ended the client, if the server refused it; else nil.
func (c *Client) Refusal() *Refused {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.refused
}

// Close sends what waits, says goodbye and ends; it takes no longer than timeout. True when the server has everything that was
// not dropped.
func (c *Client) Close(reason string, timeout time.Duration) bool {
	c.lock.Lock()
	if c.leaving == nil {
		c.leaving = &reason
	}
	c.lock.Unlock()
	c.wake()
	over := time.AfterFunc(timeout, c.end)
	defer over.Stop()
	<-c.done
	c.end()
	return c.Stats().Pending == 0 && c.Refusal() == nil
}

func (c *Client) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// counted is what the server counted, over all streams.
func (c *Client) counted() Stats {
	all := c.past
	all.Accepted += c.told.GetAccepted()
	all.Duplicates += c.told.GetDuplicates()
	all.Rejected += c.told.GetRejected()
	all.Missed += c.told.GetMissed()
	return all
}

// isDone is true when the client leaves and nothing waits any more.
func (c *Client) isDone() bool {
	c.lock.Lock()
	defer c.lock.Unlock()
	return c.leaving != nil && c.outbox.pending == 0
}

func (c *Client) run() {
	defer close(c.done)
	var connection *grpc.ClientConn
	for c.life.Err() == nil {
		var err error
		if connection == nil {
			connection, err = c.options.Target.dial()
		}
		if err == nil {
			err = c.runStream(connection)
		}
		var wait time.Duration
		again := !c.isDone()
		if err != nil {
			if connection != nil {
				_ = connection.Close()
				connection = nil
			}
			wait, again = c.failed(err)
		}
		c.lock.Lock()
		c.past, c.told = c.counted(), nil
		c.lock.Unlock()
		if !again {
			break
		}
		select {
		case <-time.After(wait):
		case <-c.life.Done():
		}
	}
	if connection != nil {
		_ = connection.Close()
	}
}

// take notes an answer. It says what became of the whole stream, so it takes the place of the one before.
func (c *Client) take(answer *v1.StreamSignalsResponse) {
	c.lock.Lock()
	acked, rejected := c.outbox.acked, answer.GetRejected()-c.told.GetRejected()
	c.outbox.acknowledge(answer.GetAckedSeq())
	if c.outbox.acked > acked {
		c.waits.reset()
	}
	c.told = answer
	c.lock.Unlock()
	for _, rejection := range answer.GetRejections()[:min(len(answer.GetRejections()), 3)] {
		c.options.Log(fmt.Sprintf("rejected: %s %s, got `%s` (%s)",
			rejection.GetField(), rejection.GetRule(), rejection.GetValue(), rejection.GetReason()))
	}
	if rejected > 3 {
		c.options.Log(fmt.Sprintf("rejected: %d signals in all", rejected))
	}
}

// failed notes the loss of a stream: the wait before the next one, unless it is final.
func (c *Client) failed(err error) (time.Duration, bool) {
	told := status.Convert(err)
	var reason string
	var retry time.Duration
	var summary *v1.PushSignalsResponse
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.GetReason()
		case *errdetails.RetryInfo:
			retry = detail.GetRetryDelay().AsDuration()
		case *v1.PushSignalsResponse:
			summary = detail
		}
	}
	c.lock.Lock()
	c.past.LostStreams++
	c.lock.Unlock()
	if summary != nil {
		// Cut for its bad signals: they were judged, so sending them again would end the next stream too.
		c.take(&v1.StreamSignalsResponse{
			AckedSeq: summary.GetHighWaterSeq(), Accepted: summary.GetAccepted(), Duplicates: summary.GetDuplicates(),
			Rejected: summary.GetRejected(), Missed: summary.GetMissed(),
		})
	} else if isPermanent(told.Code()) {
		if reason == "" {
			reason = told.Code().String()
		}
		refused := &Refused{told.Code(), told.Message(), reason}
		c.options.Log("refused: " + refused.Error())
		c.lock.Lock()
		c.refused = refused
		c.lock.Unlock()
		return 0, false
	}
	c.lock.Lock()
	wait := max(c.waits.next(), retry)
	c.lock.Unlock()
	message := told.Message()
	if told.Code() == codes.Canceled {
		message = errSilent.Error()
	}
	c.options.Log(fmt.Sprintf("lost: %s; again in %.1f s", message, wait.Seconds()))
	return wait, true
}

// isPermanent is true for what another attempt would not change.
func isPermanent(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented,
		codes.OutOfRange:
		return true
	default:
		return false
	}
}
