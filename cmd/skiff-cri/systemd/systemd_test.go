package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manager is a service manager's socket.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func next(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNotify(t *testing.T) {
	conn := manager(t)
	n, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("children would notify too")
	}
	n.Ready("serving")
	if got := next(t, conn); got != "READY=1\nSTATUS=serving" {
		t.Errorf("%q", got)
	}
	n.Reloading()
	if got := next(t, conn); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("%q", got)
	}
}

func TestWatchdog(t *testing.T) {
	conn := manager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	n, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, sick := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		n.Watch(ctx, func(context.Context) error {
			select {
			case <-sick:
				return errors.New("no answer")
			default:
				return nil
			}
		})
	}()
	if got := next(t, conn); got != "WATCHDOG=1" {
		t.Errorf("%q", got)
	}
	close(sick)
	for got := ""; got != "STATUS=does not answer: no answer"; {
		got = next(t, conn)
	}
	if got := next(t, conn); got == "WATCHDOG=1" {
		t.Error("the watchdog is fed though the check fails")
	}
	cancel()
	<-done
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	n.Ready("x")
	n.Stopping()
}
