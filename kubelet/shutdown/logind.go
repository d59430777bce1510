package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus.
const (
	login     = "org.freedesktop.login1"
	loginPath = "/org/freedesktop/login1"
	manager   = login + ".Manager"
)

// Bus is logind on a system bus.
type Bus struct {
	// Address of the bus; empty means the system's.
	Address string
	// ConfigDir is where SetDelay leaves its setting; empty means /etc/systemd/logind.conf.d.
	ConfigDir string

	mu   sync.Mutex
	conn *dbus.Conn
}

// object connects when there is no connection yet, or the last one has broken.
func (b *Bus) object() (*dbus.Conn, dbus.BusObject, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil || !b.conn.Connected() {
		var err error
		if b.Address == "" {
			b.conn, err = dbus.ConnectSystemBus()
		} else {
			b.conn, err = dbus.Connect(b.Address)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("connect to the system bus: %w", err)
		}
	}
	return b.conn, b.conn.Object(login, loginPath), nil
}

// Close ends the connection.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return nil
	}
	return b.conn.Close()
}

// Inhibit implements Logind.
func (b *Bus) Inhibit(ctx context.Context) (io.Closer, error) {
	_, o, err := b.object()
	if err != nil {
		return nil, err
	}
	var fd dbus.UnixFD
	if err := o.CallWithContext(ctx, manager+".Inhibit", 0, "shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay").Store(&fd); err != nil {
		return nil, fmt.Errorf("take the lock on the shutdown: %w", err)
	}
	return os.NewFile(uintptr(fd), "inhibit lock"), nil
}

// Delay implements Logind.
func (b *Bus) Delay(context.Context) (time.Duration, error) {
	_, o, err := b.object()
	if err != nil {
		return 0, err
	}
	v, err := o.GetProperty(manager + ".InhibitDelayMaxUSec")
	if err != nil {
		return 0, fmt.Errorf("ask logind for InhibitDelayMaxUSec: %w", err)
	}
	usec, ok := v.Value().(uint64)
	if !ok {
		return 0, fmt.Errorf("InhibitDelayMaxUSec is a %T", v.Value())
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// dropInFile is upstream's, so that the two replace each other's.
const dropInFile = "99-kubelet.conf"

// SetDelay implements Logind: by a drop-in that logind is told to read.
func (b *Bus) SetDelay(ctx context.Context, d time.Duration) error {
	dir := b.ConfigDir
	if dir == "" {
		dir = "/etc/systemd/logind.conf.d"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=%.0f\n", d.Seconds())
	if err := os.WriteFile(filepath.Join(dir, dropInFile), []byte(text), 0o644); err != nil {
		return err
	}
	conn, _, err := b.object()
	if err != nil {
		return err
	}
	const hup = int32(1)
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	if err := systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.KillUnit", 0, "systemd-logind.service", "all", hup).Err; err != nil {
		return fmt.Errorf("have logind read its configuration: %w", err)
	}
	return b.settled(ctx, d)
}

// settled waits a moment for logind to have read its configuration: nothing tells.
func (b *Bus) settled(ctx context.Context, want time.Duration) error {
	for pause, end := 10*time.Millisecond, time.Now().Add(5*time.Second); ; pause *= 2 {
		if have, err := b.Delay(ctx); err != nil || have >= want || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// Watch implements Logind.
func (b *Bus) Watch(ctx context.Context) (<-chan bool, error) {
	conn, _, err := b.object()
	if err != nil {
		return nil, err
	}
	match := []dbus.MatchOption{dbus.WithMatchInterface(manager), dbus.WithMatchObjectPath(loginPath), dbus.WithMatchMember("PrepareForShutdown")}
	if err := conn.AddMatchSignalContext(ctx, match...); err != nil {
		return nil, fmt.Errorf("watch for a shutdown: %w", err)
	}
	raw, out := make(chan *dbus.Signal, 4), make(chan bool)
	conn.Signal(raw)
	go func() {
		defer close(out)
		defer conn.RemoveSignal(raw)
		forward(ctx, conn, raw, out)
	}()
	return out, nil
}

func forward(ctx context.Context, conn *dbus.Conn, raw <-chan *dbus.Signal, out chan<- bool) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-conn.Context().Done():
			return
		case s, ok := <-raw:
			down, isBool := false, false
			if ok && len(s.Body) > 0 {
				down, isBool = s.Body[0].(bool)
			}
			if !ok {
				return
			}
			if !isBool || s.Name != manager+".PrepareForShutdown" {
				continue
			}
			select {
			case out <- down:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Present tells whether there is a bus with a logind on it.
func (b *Bus) Present(ctx context.Context) error {
	_, err := b.Delay(ctx)
	if err != nil {
		return errors.Join(errors.New("no systemd-logind on this machine"), err)
	}
	return nil
}
