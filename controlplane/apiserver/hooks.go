package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"

	"github.com/skiff-node/skiff/controlplane/apiserver/bootstrap"
)

// readyPoll is how often the server asks itself whether it is ready, until it is.
const readyPoll = 10 * time.Millisecond

// hooks adds what runs beside serving.
func (s *Server) hooks() error {
	check := healthz.NamedCheck("etcd", func(r *http.Request) error { return s.stores.Check(r.Context()) })
	if err := s.generic.AddHealthChecks(check); err != nil {
		return fmt.Errorf("API server: health check: %w", err)
	}
	if err := s.generic.AddPostStartHook("skiff-ready", s.awaitReady); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	if err := s.generic.AddPostStartHook("skiff-bootstrap", s.bootstrap); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	return nil
}

// bootstrap starts the background writes.
func (s *Server) bootstrap(ctx genericapiserver.PostStartHookContext) error {
	b := bootstrap.New(bootstrap.Config{
		Client: s.client, Advertise: s.settings.advertise, Addr: s.Addr(), Services: s.settings.services,
		ClientCA: s.settings.ClientCA, FrontProxyCA: s.settings.FrontProxy.CA, FrontProxyNames: s.settings.FrontProxy.AllowedNames,
		Ready: s.ready, Seeded: s.authz.Seeded, Log: s.settings.Log,
	})
	go b.Run(ctx)
	return nil
}

// awaitReady closes ready. Post-start hooks must return for readyz to be ok, so it asks from its own goroutine.
func (s *Server) awaitReady(hook genericapiserver.PostStartHookContext) error {
	go s.pollReady(hook)
	return nil
}

func (s *Server) pollReady(ctx context.Context) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			close(s.ready)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
