package shutdown

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"github.com/skiff-node/skiff/kubelet/cgroup/systemd/systemdtest"
)

// fakeLogind serves logind's and systemd's part on a bus of its own.
type fakeLogind struct {
	conn  *dbus.Conn
	props *prop.Properties
	dir   string
	lock  *os.File // the reading end: it ends when the lock is released
}

func (f *fakeLogind) Inhibit(what, _, _, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" {
		return 0, dbus.MakeFailedError(os.ErrInvalid)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	f.lock = r
	return dbus.UnixFD(w.Fd()), nil
}

// KillUnit reads the configuration again, as logind does on a hang-up.
func (f *fakeLogind) KillUnit(unit, _ string, signal int32) *dbus.Error {
	raw, err := os.ReadFile(filepath.Join(f.dir, dropInFile))
	if err != nil || unit != "systemd-logind.service" || signal != 1 || !strings.Contains(string(raw), "InhibitDelayMaxSec=30\n") {
		return dbus.MakeFailedError(os.ErrInvalid)
	}
	f.props.SetMust(manager, "InhibitDelayMaxUSec", uint64(30e6))
	return nil
}

// bus starts a message bus with a fake logind; the test is skipped where there is no dbus-daemon.
func bus(t *testing.T) (*Bus, *fakeLogind) {
	t.Helper()
	dir, address := t.TempDir(), systemdtest.StartBus(t)
	f := &fakeLogind{dir: dir}
	var err error
	if f.conn, err = dbus.Connect(address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.conn.Close() })
	f.props, err = prop.Export(f.conn, loginPath, prop.Map{manager: {"InhibitDelayMaxUSec": {Value: uint64(5e6)}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, iface := range map[dbus.ObjectPath]string{loginPath: manager, "/org/freedesktop/systemd1": "org.freedesktop.systemd1.Manager"} {
		if err := f.conn.Export(f, path, iface); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{login, "org.freedesktop.systemd1"} {
		if _, err := f.conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
			t.Fatal(err)
		}
	}
	b := &Bus{Address: address, ConfigDir: dir}
	t.Cleanup(func() { b.Close() })
	return b, f
}

func TestBus(t *testing.T) {
	b, f := bus(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Present(ctx); err != nil {
		t.Fatal(err)
	}
	if d, err := b.Delay(ctx); err != nil || d != 5*time.Second {
		t.Fatal(d, err)
	}
	if err := b.SetDelay(ctx, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if d, err := b.Delay(ctx); err != nil || d != 30*time.Second {
		t.Fatal(d, err)
	}
	watch, stop := context.WithCancel(ctx)
	events, err := b.Watch(watch)
	if err != nil {
		t.Fatal(err)
	}
	for _, down := range []bool{true, false} {
		if err := f.conn.Emit(loginPath, manager+".PrepareForShutdown", down); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-events:
			if got != down {
				t.Errorf("got %v, want %v", got, down)
			}
		case <-ctx.Done():
			t.Fatal("no event")
		}
	}
	stop()
	for range events { // it closes
	}
	lock, err := b.Inhibit(ctx)
	if err != nil || f.lock == nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
	if err := (&Bus{Address: "unix:path=/nonexistent"}).Present(ctx); err == nil {
		t.Error("a bus that is not there")
	}
}
