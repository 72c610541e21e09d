package signals

import (
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

type stream = grpc.ClientStreamingServer[v1.PushSignalsRequest, v1.PushSignalsResponse]

// server does what a test tells it, for what a real one cannot be asked to do: the next of script for each stream, and then it
// takes everything.
type server struct {
	v1.UnimplementedTelemetryServiceServer
	address string

	lock    sync.Mutex
	script  []func(*server, stream) error
	streams [][]*v1.PushSignalsRequest
	tokens  []string
}

func start(t *testing.T, script ...func(*server, stream) error) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{address: listener.Addr().String(), script: script}
	running := grpc.NewServer()
	v1.RegisterTelemetryServiceServer(running, s)
	go func() { _ = running.Serve(listener) }()
	t.Cleanup(running.Stop)
	return s
}

func (s *server) PushSignals(stream stream) error {
	s.lock.Lock()
	s.streams = append(s.streams, nil)
	incoming, _ := metadata.FromIncomingContext(stream.Context())
	s.tokens = append(s.tokens, incoming.Get("authorization")...)
	var act func(*server, grpc.ClientStreamingServer[v1.PushSignalsRequest, v1.PushSignalsResponse]) error
	if len(s.script) > 0 {
		act, s.script = s.script[0], s.script[1:]
	}
	s.lock.Unlock()
	if act != nil {
		return act(s, stream)
	}
	for s.receive(stream) {
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	var highest uint64
	for _, messages := range s.streams {
		for _, seq := range batches(messages) {
			highest = max(highest, seq)
		}
	}
	return stream.SendAndClose(&v1.PushSignalsResponse{HighWaterSeq: highest})
}

// receive notes the next message; false after the last.
func (s *server) receive(stream stream) bool {
	message, err := stream.Recv()
	if err == io.EOF || err != nil {
		return false
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	last := len(s.streams) - 1
	s.streams[last] = append(s.streams[last], message)
	return true
}

func batches(messages []*v1.PushSignalsRequest) []uint64 {
	var found []uint64
	for _, message := range messages {
		if batch := message.GetBatch(); batch != nil {
			found = append(found, batch.GetSeq())
		}
	}
	return found
}

// fails ends a stream after so many messages.
func fails(after int, code codes.Code, details ...protoadapt.MessageV1) func(*server, stream) error {
	return func(s *server, stream stream) error {
		for range after {
			s.receive(stream)
		}
		told, err := status.New(code, "no").WithDetails(details...)
		if err != nil {
			return err
		}
		return told.Err()
	}
}

func client(s *server, change func(*Options)) (*Client, *[]string) {
	var lines []string
	target, _ := ParseTarget(s.address, "", false)
	options := Options{
		Target: target, Token: "agt_x", Environment: "stage", MonitorID: "edge", AckEvery: 30 * time.Second,
		Log: func(line string) { lines = append(lines, line) },
	}
	if change != nil {
		change(&options)
	}
	return New(options), &lines
}

func reading() *Signal {
	share := 0.5
	return &Signal{App: "web", CpuUtilization: &share}
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never happened: " + what)
		}
	}
}

func TestAStreamHasHelloNumberedBatchesAndAGoodbye(t *testing.T) {
	s := start(t)
	c, _ := client(s, func(o *Options) { o.TTL = 3 * time.Second })
	c.Push(reading())
	c.Push(reading(), reading())
	if !c.Close("done", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	messages := s.streams[0]
	hello := messages[0].GetHello()
	if hello.GetMonitorId() != "edge" || hello.GetEnvironment() != "stage" || hello.GetEpoch() == 0 {
		t.Error(hello)
	}
	if hello.GetDefaultTtl().AsDuration() != 3*time.Second {
		t.Error(hello)
	}
	same(t, "batches", batches(messages), []uint64{1, 2})
	if messages[1].GetBatch().GetSignals()[0].GetTime() == nil || messages[3].GetBye().GetReason() != "done" {
		t.Error(messages)
	}
	same(t, "tokens", s.tokens, []string{"Bearer agt_x"})
}

func TestWhatWasNotAcknowledgedIsSentAgainUnderItsNumber(t *testing.T) {
	s := start(t, fails(3, codes.Unavailable))
	c, _ := client(s, nil)
	for range 4 {
		c.Push(reading())
	}
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	same(t, "the first stream", batches(s.streams[0])[:2], []uint64{1, 2})
	same(t, "the summary never came, so all of it", batches(s.streams[1]), []uint64{1, 2, 3, 4})
	if s.streams[0][0].GetHello().GetEpoch() != s.streams[1][0].GetHello().GetEpoch() {
		t.Error("another epoch")
	}
	if got := c.Stats(); got.AckedSeq != 4 || got.Pending != 0 || got.Dropped != 0 || got.LostStreams != 1 {
		t.Error(got)
	}
}

func TestASummaryNowAndThenEmptiesTheBuffer(t *testing.T) {
	s := start(t)
	c, _ := client(s, func(o *Options) { o.Buffer = 4 })
	for range 12 {
		c.Push(reading())
		// Half full is the moment to ask; nothing is lost as long as the server answers.
		until(t, "an acknowledgement", func() bool { return c.Stats().Pending <= 2 })
	}
	if !c.Close("", 10*time.Second) || c.Stats().Dropped != 0 || len(s.streams) < 2 {
		t.Fatal(c.Stats(), len(s.streams))
	}
	var all []uint64
	for _, messages := range s.streams {
		all = append(all, batches(messages)...)
	}
	same(t, "each once", all, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
}

func TestAServerThatIsAwayCostsTheOldestAndNothingElse(t *testing.T) {
	gone := fails(0, codes.Unavailable)
	s := start(t, gone, gone, gone)
	c, _ := client(s, func(o *Options) { o.Buffer = 5 })
	for range 20 {
		c.Push(reading())
	}
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	got := map[uint64]bool{}
	for _, messages := range s.streams[3:] {
		for _, seq := range batches(messages) {
			got[seq] = true
		}
	}
	if !got[20] || uint64(20-len(got)) != c.Stats().Dropped {
		t.Error(got, c.Stats())
	}
}

func TestARefusalIsFinalAndSaysWhy(t *testing.T) {
	s := start(t, fails(0, codes.PermissionDenied, &errdetails.ErrorInfo{Reason: "ROLE_REQUIRED"}))
	c, _ := client(s, nil)
	c.Push(reading())
	if c.Close("", 10*time.Second) || c.Refusal().Code != codes.PermissionDenied || c.Refusal().Reason != "ROLE_REQUIRED" {
		t.Error(c.Refusal())
	}
	if len(s.streams) != 1 {
		t.Error("asked again")
	}
}

func TestAStreamCutForBadSignalsDoesNotEndTheNextOneToo(t *testing.T) {
	summary := &v1.PushSignalsResponse{HighWaterSeq: 1, Rejected: 100}
	s := start(t, fails(2, codes.InvalidArgument, protoadapt.MessageV1Of(summary)))
	c, _ := client(s, nil)
	c.Push(reading())
	until(t, "it is told", func() bool { return c.Stats().Rejected == 100 })
	c.Push(reading())
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	same(t, "only what is new", batches(s.streams[1]), []uint64{2})
}

func TestTheServerSaysHowLongToWait(t *testing.T) {
	s := start(t, fails(0, codes.ResourceExhausted, &errdetails.RetryInfo{RetryDelay: durationpb.New(700 * time.Millisecond)}))
	c, lines := client(s, nil)
	c.Push(reading())
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	if !slices.ContainsFunc(*lines, func(line string) bool { return strings.Contains(line, "again in 0.7 s") }) {
		t.Error(*lines)
	}
}
