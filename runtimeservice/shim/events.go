package shim

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// serveEvents takes the events of a shim, for as long as this process lives. A shim that cannot get rid of them tries
// again and again. Nothing follows from them: an end is learned by waiting for it.
func serveEvents(dir string, log io.Writer) (address string, err error) {
	path := filepath.Join(dir, "events")
	l, err := net.Listen("unix", shortName(path))
	if err != nil {
		return "", fmt.Errorf("listen for events: %w", err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return "", fmt.Errorf("listen for events: %w", err)
	}
	events.RegisterTTRPCEventsService(server, eventLog{log})
	go func() { _ = server.Serve(context.Background(), l) }()
	return shortName(path), nil
}

// shortName is a path, or where that is too long for a socket an abstract name, which ends with this process.
func shortName(path string) string {
	if len(path) < 100 {
		return path
	}
	return fmt.Sprintf("@skiff-shim-%d", os.Getpid())
}

// eventLog writes events down.
type eventLog struct{ to io.Writer }

// Forward implements events.TTRPCEventsService.
func (e eventLog) Forward(_ context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	envelope := r.GetEnvelope()
	fmt.Fprintln(e.to, envelope.GetTimestamp().AsTime(), envelope.GetTopic())
	return &emptypb.Empty{}, nil
}
