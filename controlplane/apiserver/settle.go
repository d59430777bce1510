package apiserver

import "context"

// Settle waits until the server can answer from memory; Run may be called before, but the first requests would then be
// turned away for a second. It needs etcd to serve.
func (s *Server) Settle(ctx context.Context) error { return s.stores.Settle(ctx) }
