package server

import (
	"context"
	"net"
)

// backend is a connection to the runtime's streaming server that takes what is written to it also when the server has
// gone: what a client says after the end of its command has no reader.
//
// The upgrade handler ends a session as soon as one direction ends. A runtime closes its side right after the last output;
// when a frame of the client's arrives then, writing fails, and the handler would end the session before the last output
// was passed on: a command that succeeds without a word.
type backend struct{ net.Conn }

func (b backend) Write(p []byte) (int, error) {
	_, _ = b.Conn.Write(p)
	return len(p), nil
}

// dialBackend is the DialContext of the transport to the runtime.
func dialBackend(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return backend{conn}, nil
}
