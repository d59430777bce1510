// Package socket serves gRPC on sockets of the node, where agents and plugins find the kubelet.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
)

// Listen listens at path, in a directory that it makes. A socket that another kubelet has left is replaced. what names it in
// errors.
func Listen(path, what string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make the directory of the %s socket: %w", what, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old %s socket: %w", what, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the %s socket: %w", what, err)
	}
	return l, nil
}

// Serve serves until ctx ends, which is no error. It closes the listener.
func Serve(ctx context.Context, srv *grpc.Server, l net.Listener) error {
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	if err := srv.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
