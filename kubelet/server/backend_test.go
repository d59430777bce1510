package server

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
)

// TestBackendKeepsTheLastOutput: the runtime's server writes its output and closes while the client goes on writing. That
// it is gone is no error to the writer, and the output is still there to be read.
func TestBackendKeepsTheLastOutput(t *testing.T) {
	output := bytes.Repeat([]byte("ahoy "), 4000)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // the rest stays unread: closing resets the connection
			t.Error(err)
		}
		if _, err := conn.Write(output); err != nil {
			t.Error(err)
		}
		conn.Close()
	}()
	conn, err := dialBackend(context.Background(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	write := func() error { _, err := conn.Write([]byte("window update")); return err }
	if err := write(); err != nil {
		t.Fatal(err)
	}
	<-closed
	for range 3 { // a plain connection refuses the second at the latest
		if err := write(); err != nil {
			t.Fatalf("write after the server has gone: %v", err)
		}
	}
	if got, _ := io.ReadAll(conn); !bytes.Equal(got, output) {
		t.Errorf("%d bytes of output, want %d", len(got), len(output))
	}
}
