// Package systemd tells the service manager how the process is (sd_notify(3)): ready, reloading, stopping, alive.
// Without a NOTIFY_SOCKET nothing happens.
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier speaks to the service manager. The zero value speaks to none.
type Notifier struct {
	conn  net.Conn
	every time.Duration // how often the service manager wants to hear; 0: never
}

// FromEnvironment takes the socket and the watchdog's interval out of the environment: children must not notify.
func FromEnvironment() (*Notifier, error) {
	n := &Notifier{}
	path := os.Getenv("NOTIFY_SOCKET")
	usec, pid := os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails for empty names only
	}
	if path == "" {
		return n, nil
	}
	if strings.HasPrefix(path, "@") {
		path = "\x00" + path[1:]
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return n, fmt.Errorf("speak to the service manager: %w", err)
	}
	n.conn = conn
	if us, err := strconv.ParseUint(usec, 10, 63); err == nil && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.every = time.Duration(us) * time.Microsecond
	}
	return n, nil
}

func (n *Notifier) send(lines ...string) {
	if n.conn != nil {
		_, _ = n.conn.Write([]byte(strings.Join(lines, "\n"))) // nobody to tell: the service manager will notice
	}
}

// Ready says that the process serves, with a line about how.
func (n *Notifier) Ready(status string) { n.send("READY=1", "STATUS="+status) }

// Reloading says that the configuration is read anew; Ready must follow.
func (n *Notifier) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(now.Nano()/1000, 10))
}

// Stopping says that the end has begun.
func (n *Notifier) Stopping() { n.send("STOPPING=1") }

// Watch tells the watchdog that the process is alive, twice in its interval, as long as check succeeds. Where no
// watchdog is set it only waits for the end of ctx.
func (n *Notifier) Watch(ctx context.Context, check func(context.Context) error) {
	if n.every <= 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(n.every / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(ctx, n.every/2)
		err := check(limited)
		cancel()
		if err == nil {
			n.send("WATCHDOG=1")
		} else if ctx.Err() == nil {
			n.send("STATUS=does not answer: " + strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
}
