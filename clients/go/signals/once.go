package signals

import (
	"context"
	"time"

	"google.golang.org/grpc/metadata"

	v1 "agentctl.dev/clients/go/agentctl/v1"
)

// PushOnce pushes signals over one stream of PushSignals and returns what became of them: for a program that does not stay. It is tried
// once; errors are those of gRPC.
func PushOnce(ctx context.Context, options Options, signals ...*Signal) (*v1.PushSignalsResponse, error) {
	connection, err := options.Target.dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+options.Token)
	stream, err := v1.NewTelemetryServiceClient(connection).PushSignals(ctx)
	if err != nil {
		return nil, err
	}
	timed(signals)
	now := time.Now()
	waiting := outbox{limit: len(signals), maxAge: time.Minute}
	waiting.add(signals, now)
	messages := []*v1.PushSignalsRequest{{Message: &v1.PushSignalsRequest_Hello{Hello: options.hello()}}}
	for _, batch := range waiting.batches {
		wire := &v1.SignalBatch{Seq: batch.seq, Signals: batch.signals}
		messages = append(messages, &v1.PushSignalsRequest{Message: &v1.PushSignalsRequest_Batch{Batch: wire}})
	}
	bye := &v1.Bye{Reason: "done"}
	messages = append(messages, &v1.PushSignalsRequest{Message: &v1.PushSignalsRequest_Bye{Bye: bye}})
	for _, message := range messages {
		if stream.Send(message) != nil {
			// Why the stream is over is in its answer.
			break
		}
	}
	return stream.CloseAndRecv()
}
