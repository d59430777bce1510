package cri

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/runtimeservice"
)

// unary stacks what every call has in common: it is in the table of calls in flight, its outcome is logged, its error
// becomes a status.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	r := calls.Request{Method: info.FullMethod, About: about(req), Patience: patience(req)}
	began := time.Now()
	ctx, end := s.config.Calls.Begin(ctx, r)
	reply, err := handler(ctx, req)
	s.logCall(ctx, r, began, err)
	err = toStatus(err)
	end(err)
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// stream does the same for streams, which last as long as their client likes.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	r := calls.Request{Method: info.FullMethod, Patience: -1}
	began := time.Now()
	ctx, end := s.config.Calls.Begin(ss.Context(), r)
	err := handler(srv, followed{ss, ctx})
	s.logCall(ctx, r, began, err)
	err = toStatus(err)
	end(err)
	return err
}

// followed is a stream whose context is the call's.
type followed struct {
	grpc.ServerStream
	ctx context.Context
}

func (f followed) Context() context.Context { return f.ctx }

// logCall says what failed, and for those who debug, what was called.
func (s *Server) logCall(ctx context.Context, r calls.Request, began time.Time, err error) {
	level := slog.LevelDebug
	if err != nil && !errors.Is(err, runtimeservice.ErrNotFound) && !errors.Is(err, context.Canceled) {
		level = slog.LevelWarn
	}
	if !s.config.Log.Enabled(ctx, level) {
		return
	}
	attrs := append([]slog.Attr{
		slog.String("call", calls.Name(r.Method)), slog.Duration("took", time.Since(began).Round(10*time.Microsecond)),
	}, r.About...)
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.config.Log.LogAttrs(ctx, level, "CRI", attrs...)
}

// about names what a request concerns.
func about(req any) []slog.Attr {
	var out []slog.Attr
	add := func(key, value string) {
		if value != "" {
			out = append(out, slog.String(key, value))
		}
	}
	switch r := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		m := r.GetConfig().GetMetadata()
		add("pod", strings.Trim(m.GetNamespace()+"/"+m.GetName(), "/"))
		add("handler", r.GetRuntimeHandler())
	case *runtimeapi.CreateContainerRequest:
		m := r.GetSandboxConfig().GetMetadata()
		add("pod", strings.Trim(m.GetNamespace()+"/"+m.GetName(), "/"))
		add("name", r.GetConfig().GetMetadata().GetName())
	case *runtimeapi.ExecSyncRequest:
		add("command", strings.Join(r.GetCmd(), " "))
	}
	if r, ok := req.(interface{ GetPodSandboxId() string }); ok {
		add("sandbox", r.GetPodSandboxId())
	}
	if r, ok := req.(interface{ GetContainerId() string }); ok {
		add("container", r.GetContainerId())
	}
	if r, ok := req.(interface{ GetImage() *runtimeapi.ImageSpec }); ok {
		add("image", r.GetImage().GetImage())
	}
	return out
}

// patience is what the request itself allows the call to last. A pull, and a command without a time limit, last as
// long as they make progress.
func patience(req any) time.Duration {
	switch r := req.(type) {
	case *runtimeapi.StopContainerRequest:
		return time.Duration(max(r.GetTimeout(), 0)) * time.Second
	case *runtimeapi.CheckpointContainerRequest:
		return time.Duration(max(r.GetTimeout(), 0)) * time.Second
	case *runtimeapi.ExecSyncRequest:
		if r.GetTimeout() <= 0 {
			return -1
		}
		return time.Duration(r.GetTimeout()) * time.Second
	case *runtimeapi.PullImageRequest:
		return -1
	}
	return 0
}
