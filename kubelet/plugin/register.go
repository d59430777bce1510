package plugin

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// callTime bounds each call to a plugin's registration socket.
const callTime = 5 * time.Second

// register is one attempt to introduce the plugin behind a socket.
func (w *Watcher) register(ctx context.Context, s *socket) error {
	conn, err := Dial(s.path)
	if err != nil {
		return err
	}
	defer conn.Close()
	api := registerapi.NewRegistrationClient(conn)
	call, cancel := context.WithTimeout(ctx, callTime)
	info, err := api.GetInfo(call, &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	cancel()
	if err != nil {
		return fmt.Errorf("failed to get plugin info using RPC GetInfo at socket %s: %w", s.path, err)
	}
	handler, ok := w.cfg.Handlers[info.Type]
	if !ok {
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", info.Type, s.path)
	} else {
		err = w.take(ctx, s, handler, info)
	}
	status := &registerapi.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = "RegisterPlugin error -- " + err.Error()
	}
	call, cancel = context.WithTimeout(ctx, callTime)
	defer cancel()
	if _, told := api.NotifyRegistrationStatus(call, status); told != nil && err == nil {
		if ctx.Err() == nil { // else the socket has gone, which look sees to, or the kubelet ends, and plugins stay registered
			w.forget(s)
		}
		return fmt.Errorf("failed to send registration status at socket %s: %w", s.path, told)
	}
	return err
}

func (w *Watcher) take(ctx context.Context, s *socket, handler Handler, info *registerapi.PluginInfo) error {
	endpoint := cmp.Or(info.Endpoint, s.path)
	if err := handler.Register(ctx, info.Name, endpoint, info.SupportedVersions); err != nil {
		return fmt.Errorf("plugin registration failed with err: %w", err)
	}
	s.mu.Lock()
	s.taken = &taken{handler: handler, name: info.Name, endpoint: endpoint}
	s.mu.Unlock()
	w.cfg.Log.Info("registered a plugin", "type", info.Type, "plugin", info.Name, "endpoint", endpoint)
	return nil
}

// redial is the most time between attempts to connect to a plugin that has gone: they cost next to nothing here.
const redial = 2 * time.Second

// Dial connects to a plugin's socket. The connection is made with the first call, and again when it broke.
func Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: redial / 20, Multiplier: 1.6, Jitter: 0.2, MaxDelay: redial}, MinConnectTimeout: callTime}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}))
}
