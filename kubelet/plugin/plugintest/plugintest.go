// Package plugintest is what plugins of the kubelet have in common in tests: they serve gRPC on sockets of the node, and are announced by
// one in plugins_registry.
package plugintest

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-node/skiff/kubelet/socket"
)

// Servers are those of one plugin. The zero value has none.
type Servers struct {
	list    []*grpc.Server
	running sync.WaitGroup
}

// Serve begins to serve on a socket, which replaces one that is there; register says what.
func (s *Servers) Serve(path string, register func(*grpc.Server), options ...grpc.ServerOption) error {
	l, err := socket.Listen(path, "plugin's")
	if err != nil {
		return err
	}
	srv := grpc.NewServer(options...)
	register(srv)
	s.list = append(s.list, srv)
	s.running.Go(func() { _ = srv.Serve(l) }) // ends with Stop
	return nil
}

// Announce lets the kubelet find the plugin by a socket in plugins_registry. told gets what the kubelet answers; nil for nobody.
func (s *Servers) Announce(path string, info *registerapi.PluginInfo, told func(*registerapi.RegistrationStatus)) error {
	return s.Serve(path, func(srv *grpc.Server) { registerapi.RegisterRegistrationServer(srv, announcer{info: info, told: told}) })
}

// Stop ends all of them at once, as if the plugin were killed, and waits for that. Their sockets go.
func (s *Servers) Stop() {
	for _, srv := range s.list {
		srv.Stop()
	}
	s.running.Wait()
}

type announcer struct {
	registerapi.UnimplementedRegistrationServer
	info *registerapi.PluginInfo
	told func(*registerapi.RegistrationStatus)
}

func (a announcer) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return a.info, nil
}

func (a announcer) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if a.told != nil {
		a.told(s)
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
