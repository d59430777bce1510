// Package cri serves the Container Runtime Interface (k8s.io/cri-api, runtime.v1) on a unix socket. Its handlers
// parse, make one call on a service, convert, and leave errors to one interceptor that maps them to gRPC codes.
// What it does not serve yet answers Unimplemented with the name of the method.
package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/cri/stream"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// Config is what a server is made of. All of it is required but Streams and Calls.
type Config struct {
	Runtime runtimeservice.Service
	Images  imageservice.Images
	Socket  string // path of the unix socket
	Streams string // address of the session server; "" is a free port of 127.0.0.1
	Version string // of this build
	Log     *slog.Logger
	Calls   *calls.Table // nil: a table that nobody looks at
}

// Server serves CRI.
type Server struct {
	config   Config
	listener net.Listener
	streams  *stream.Server
	grpc     *grpc.Server
}

// maxMessage is what CRI clients accept and send, in bytes (kubelet: 16 MiB).
const maxMessage = 16 << 20

// New takes the socket. An abandoned socket is replaced, a living server refused.
func New(c Config) (*Server, error) {
	if c.Streams == "" {
		c.Streams = "127.0.0.1:0"
	}
	if c.Calls == nil {
		c.Calls = calls.New(c.Log)
	}
	listener, err := Listen(c.Socket)
	if err != nil {
		return nil, err
	}
	streams, err := stream.New(c.Streams, c.Runtime.Processes, c.Calls)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s := &Server{config: c, listener: listener, streams: streams}
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.ReadBufferSize(8<<10), grpc.WriteBufferSize(8<<10),
	)
	runtimeapi.RegisterRuntimeServiceServer(s.grpc, &runtimeServer{
		versionHandlers:    versionHandlers{c.Version, c.Runtime.Node, c.Calls},
		sandboxHandlers:    sandboxHandlers{c.Runtime.Sandboxes, c.Runtime.Containers, statuses{c.Images}},
		containerHandlers:  containerHandlers{c.Runtime.Containers, c.Runtime.Inspector, statuses{c.Images}},
		processHandlers:    processHandlers{c.Runtime, streams},
		statsHandlers:      statsHandlers{c.Runtime.Meters},
		metricsHandlers:    metricsHandlers{c.Runtime.Meters},
		eventHandlers:      eventHandlers{c.Runtime.Events, statuses{c.Images}},
		checkpointHandlers: checkpointHandlers{c.Runtime.Checkpoints},
	})
	runtimeapi.RegisterImageServiceServer(s.grpc, &imageServer{imageHandlers: imageHandlers{c.Images, c.Runtime.Node}})
	return s, nil
}

// Run serves until ctx is done. Calls in flight are cut then; the services finish or undo what they began.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.streams.Run(ctx) })
	group.Go(func() error {
		stop := context.AfterFunc(ctx, s.grpc.Stop)
		defer stop()
		if err := s.grpc.Serve(s.listener); err != nil {
			return fmt.Errorf("serve CRI on %s: %w", s.config.Socket, err)
		}
		return nil
	})
	return group.Wait()
}

// runtimeServer is all handlers of the runtime service. The methods nobody has written come from fallback, which
// lies one level deeper so that a written one wins.
type runtimeServer struct {
	versionHandlers
	sandboxHandlers
	containerHandlers
	processHandlers
	statsHandlers
	metricsHandlers
	eventHandlers
	checkpointHandlers
	runtimeFallback
}

type runtimeFallback struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

type imageServer struct {
	imageHandlers
	imageFallback
}

type imageFallback struct {
	runtimeapi.UnimplementedImageServiceServer
}
