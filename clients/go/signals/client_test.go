package signals

import (
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

type stream = grpc.BidiStreamingServer[v1.StreamSignalsRequest, v1.StreamSignalsResponse]

// server does what a test tells it, for what a real one cannot be asked to do: the next of script for each stream, and then it
// takes everything.
type server struct {
	v1.UnimplementedTelemetryServiceServer
	address string

	lock    sync.Mutex
	script  []func(*server, stream) error
	streams [][]*v1.StreamSignalsRequest
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

func (s *server) StreamSignals(stream stream) error {
	s.lock.Lock()
	s.streams = append(s.streams, nil)
	incoming, _ := metadata.FromIncomingContext(stream.Context())
	s.tokens = append(s.tokens, incoming.Get("authorization")...)
	var act func(*server, grpc.BidiStreamingServer[v1.StreamSignalsRequest, v1.StreamSignalsResponse]) error
	if len(s.script) > 0 {
		act, s.script = s.script[0], s.script[1:]
	}
	s.lock.Unlock()
	if act != nil {
		return act(s, stream)
	}
	for message := s.receive(stream); message != nil; message = s.receive(stream) {
		// As the real one: where to go on, what it has, and a last word.
		answer := &v1.StreamSignalsResponse{AckedSeq: s.highest(), Closed: message.GetBye() != nil}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) PushSignals(stream grpc.ClientStreamingServer[v1.PushSignalsRequest, v1.PushSignalsResponse]) error {
	var accepted, highest uint64
	for {
		message, err := stream.Recv()
		if err != nil {
			return stream.SendAndClose(&v1.PushSignalsResponse{HighWaterSeq: highest, Accepted: accepted})
		}
		highest = max(highest, message.GetBatch().GetSeq())
		accepted += uint64(len(message.GetBatch().GetSignals()))
	}
}

// receive notes the next message; nil after the last.
func (s *server) receive(stream stream) *v1.StreamSignalsRequest {
	message, err := stream.Recv()
	if err != nil {
		return nil
	}
	s.lock.Lock()
	defer s.lock.Unlock()
	last := len(s.streams) - 1
	s.streams[last] = append(s.streams[last], message)
	return message
}

// highest is the highest number ever seen.
func (s *server) highest() uint64 {
	s.lock.Lock()
	defer s.lock.Unlock()
	var highest uint64
	for _, messages := range s.streams {
		for _, seq := range batches(messages) {
			highest = max(highest, seq)
		}
	}
	return highest
}

func batches(messages []*v1.StreamSignalsRequest) []uint64 {
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
			_ = stream.Send(&v1.StreamSignalsResponse{})
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
		Target: target, Token: "agt_x", Environment: "stage", MonitorID: "edge",
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
	s := start(t, func(s *server, stream stream) error {
		err := fails(3, codes.Unavailable)(s, stream)
		s.lock.Lock()
		defer s.lock.Unlock()
		// It forgets them, as a server does that is started again.
		s.streams[0] = s.streams[0][:1]
		return err
	})
	c, _ := client(s, nil)
	for range 4 {
		c.Push(reading())
	}
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	same(t, "nothing was acknowledged, so all of it", batches(s.streams[1]), []uint64{1, 2, 3, 4})
	if s.streams[0][0].GetHello().GetEpoch() != s.streams[1][0].GetHello().GetEpoch() {
		t.Error("another epoch")
	}
	if got := c.Stats(); got.AckedSeq != 4 || got.Pending != 0 || got.Dropped != 0 || got.LostStreams != 1 {
		t.Error(got)
	}
}

func TestWhatTheServerHasIsNotSentAgain(t *testing.T) {
	s := start(t, fails(3, codes.Unavailable))
	c, _ := client(s, nil)
	for range 4 {
		c.Push(reading())
	}
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	all := append(batches(s.streams[0]), batches(s.streams[1])...)
	same(t, "the first answer is the cursor", all, []uint64{1, 2, 3, 4})
}

func TestNothingIsSentBeforeTheServerHasSaidWhereToGoOn(t *testing.T) {
	pushed := make(chan struct{})
	s := start(t, func(s *server, stream stream) error {
		s.receive(stream)
		<-pushed
		_ = stream.Send(&v1.StreamSignalsResponse{AckedSeq: 2})
		for message := s.receive(stream); message != nil; message = s.receive(stream) {
			_ = stream.Send(&v1.StreamSignalsResponse{AckedSeq: 3, Closed: message.GetBye() != nil})
		}
		return nil
	})
	c, _ := client(s, nil)
	for range 3 {
		c.Push(reading())
	}
	close(pushed)
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	same(t, "the server said that it has two of them", batches(s.streams[0]), []uint64{3})
}

func TestAnswersEmptyTheBufferAsTheStreamGoes(t *testing.T) {
	s := start(t)
	c, _ := client(s, func(o *Options) { o.Buffer = 4 })
	for range 12 {
		c.Push(reading())
		until(t, "an acknowledgement", func() bool { return c.Stats().Pending <= 2 })
	}
	if !c.Close("", 10*time.Second) || c.Stats().Dropped != 0 || len(s.streams) != 1 {
		t.Fatal(c.Stats(), len(s.streams))
	}
	same(t, "each once", batches(s.streams[0]), []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
}

func TestCountsAreOfAllStreamsAndOfEachAnswerOnce(t *testing.T) {
	s := start(t, func(s *server, stream stream) error {
		s.receive(stream)
		_ = stream.Send(&v1.StreamSignalsResponse{})
		for seq := range uint64(2) {
			s.receive(stream)
			_ = stream.Send(&v1.StreamSignalsResponse{AckedSeq: seq + 1, Accepted: seq + 1, Rejected: 1})
		}
		return status.Error(codes.Unavailable, "gone")
	}, func(s *server, stream stream) error {
		for message := s.receive(stream); message != nil; message = s.receive(stream) {
			_ = stream.Send(&v1.StreamSignalsResponse{AckedSeq: 3, Accepted: 1, Closed: message.GetBye() != nil})
		}
		return nil
	})
	c, _ := client(s, nil)
	for range 3 {
		c.Push(reading())
	}
	if !c.Close("", 10*time.Second) {
		t.Fatal(c.Stats())
	}
	if got := c.Stats(); got.Accepted != 3 || got.Rejected != 1 || got.LostStreams != 1 {
		t.Error(got)
	}
}

func TestAnEndWithoutAnAnswerToTheGoodbyeIsALoss(t *testing.T) {
	s := start(t, func(s *server, stream stream) error {
		s.receive(stream)
		return stream.Send(&v1.StreamSignalsResponse{})
	})
	c, lines := client(s, nil)
	c.Push(reading())
	if !c.Close("", 10*time.Second) || c.Stats().LostStreams != 1 {
		t.Fatal(c.Stats())
	}
	if !strings.HasPrefix((*lines)[0], "lost: the stream ended without a goodbye; again in ") {
		t.Error(*lines)
	}
}

func TestAProgramThatDoesNotStayPushesOnce(t *testing.T) {
	s := start(t)
	target, _ := ParseTarget(s.address, "", false)
	options := Options{Target: target, Token: "agt_x", Environment: "stage", MonitorID: "edge"}
	var many []*Signal
	for range 1_001 {
		many = append(many, reading())
	}
	summary, err := PushOnce(t.Context(), options, many...)
	if err != nil || summary.GetHighWaterSeq() != 2 || summary.GetAccepted() != 1_001 || many[0].Time == nil {
		t.Error(summary, err)
	}
	options.Target, _ = ParseTarget("127.0.0.1:1", "", false)
	if _, err := PushOnce(t.Context(), options, reading()); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
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
