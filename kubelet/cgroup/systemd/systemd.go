// Package systemd makes and limits slices, by talking to systemd on the system bus (org.freedesktop.systemd1). It is what the
// opencontainers/cgroups module does for OCI runtimes, for as much as a kubelet needs of it.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

// Names on the bus.
const (
	service = "org.freedesktop.systemd1"
	object  = "/org/freedesktop/systemd1"
	manager = service + ".Manager"
)

// private is systemd's own socket, on which root reaches it where no bus runs.
const private = "unix:path=/run/systemd/private"

// patience is how long a call, and the job that it begins, may take.
const patience = 30 * time.Second

// Bus is systemd. It connects when it is first asked for something, and again when the connection is lost.
type Bus struct {
	// Address of the bus; empty means the system's.
	Address string

	mu      sync.Mutex
	conn    *dbus.Conn
	version int // systemd's, of conn

	jobs jobs
}

// New returns systemd on the system's bus, after it has answered.
func New() (*Bus, error) {
	b := &Bus{}
	if _, err := b.systemd(); err != nil {
		return nil, err
	}
	return b, nil
}

var _ cgroup.Units = (*Bus)(nil)

// Ensure implements cgroup.Units.
func (b *Bus) Ensure(unit, parent string, properties []cgroup.Property) error {
	conn, err := b.systemd()
	if err != nil {
		return err
	}
	birth := append([]property{
		{"Description", dbus.MakeVariant("skiff kubelet slice " + unit)},
		{"Wants", dbus.MakeVariant([]string{parent})},
		{"DefaultDependencies", dbus.MakeVariant(false)}, // it must not be stopped before the pods have ended in their order
		{"MemoryAccounting", dbus.MakeVariant(true)},
		{"CPUAccounting", dbus.MakeVariant(true)},
		{"IOAccounting", dbus.MakeVariant(true)},
		{"TasksAccounting", dbus.MakeVariant(true)},
	}, b.variants(properties)...)
	type auxiliary struct {
		Name       string
		Properties []property
	}
	err = b.job(conn, "StartTransientUnit", unit, "replace", birth, []auxiliary{})
	if named(err, "UnitExists") {
		return b.Set(unit, properties)
	}
	if err != nil {
		return fmt.Errorf("have systemd make %s: %w", unit, err)
	}
	return nil
}

// Set implements cgroup.Units.
func (b *Bus) Set(unit string, properties []cgroup.Property) error {
	if len(properties) == 0 {
		return nil
	}
	conn, err := b.systemd()
	if err != nil {
		return err
	}
	const untilReboot = true
	if err := call(conn, "SetUnitProperties", unit, untilReboot, b.variants(properties)).Err; err != nil {
		return fmt.Errorf("have systemd limit %s: %w", unit, err)
	}
	return nil
}

// Stop implements cgroup.Units.
func (b *Bus) Stop(unit string) error {
	conn, err := b.systemd()
	if err != nil {
		return err
	}
	if err := b.job(conn, "StopUnit", unit, "replace"); err != nil && !named(err, "NoSuchUnit") {
		return fmt.Errorf("have systemd stop %s: %w", unit, err)
	}
	_ = call(conn, "ResetFailedUnit", unit).Err // if it has failed, so that systemd forgets it; else that is an error
	return nil
}

// Close ends the connection.
func (b *Bus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == nil {
		return nil
	}
	defer b.jobs.followed.Wait()
	return b.conn.Close()
}

// property is how a property is written on the bus.
type property struct {
	Name  string
	Value dbus.Variant
}

// since tells from which version on systemd knows a property, of those that not every one knows. Before that only the file has it.
func since(property string) int {
	switch property {
	case "CPUQuotaPeriodUSec":
		return 242
	case "AllowedCPUs":
		return 244
	}
	return 0
}

func (b *Bus) variants(properties []cgroup.Property) []property {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []property
	for _, p := range properties {
		if b.version >= since(p.Name) {
			out = append(out, property{p.Name, dbus.MakeVariant(p.Value)})
		}
	}
	return out
}

// systemd connects when there is no connection yet, or the last one has broken.
func (b *Bus) systemd() (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	conn, err := connect(b.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	var v dbus.Variant
	if err := method(conn, "org.freedesktop.DBus.Properties.Get", manager, "Version").Store(&v); err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask systemd for its version: %w", err)
	}
	b.conn, b.version = conn, number(v.Value())
	b.jobs.follow(conn)
	return conn, nil
}

// connect reaches systemd by the bus, or as root without one.
func connect(address string) (*dbus.Conn, error) {
	removed := []dbus.MatchOption{dbus.WithMatchInterface(manager), dbus.WithMatchMember("JobRemoved")}
	var conn *dbus.Conn
	var err error
	if address == "" {
		conn, err = dbus.ConnectSystemBus()
	} else {
		conn, err = dbus.Connect(address)
	}
	if err == nil {
		if err = conn.AddMatchSignal(removed...); err == nil {
			return conn, nil
		}
		conn.Close()
	}
	if address != "" || os.Geteuid() != 0 {
		return nil, err
	}
	direct, second := dbus.Dial(private) // on it all signals come unasked
	if second == nil {
		second = direct.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	}
	if second != nil {
		if direct != nil {
			direct.Close()
		}
		return nil, errors.Join(err, second)
	}
	return direct, nil
}

// number is the version in "v257.9-1~deb13u1" or "257"; zero if there is none in it.
func number(version any) int {
	text, _ := version.(string)
	text = strings.TrimLeft(text, `"v`)
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		text = text[:end]
	}
	n, _ := strconv.Atoi(text)
	return n
}

// call calls a method of systemd's manager.
func call(conn *dbus.Conn, name string, args ...any) *dbus.Call {
	return method(conn, manager+"."+name, args...)
}

func method(conn *dbus.Conn, name string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return conn.Object(service, object).CallWithContext(ctx, name, 0, args...)
}

// job calls a method that begins a job, and waits until the job is over.
func (b *Bus) job(conn *dbus.Conn, method string, args ...any) error {
	b.jobs.begin() // it may be over before the call has returned
	defer b.jobs.end()
	var path dbus.ObjectPath
	if err := call(conn, method, args...).Store(&path); err != nil {
		return err
	}
	result, err := b.jobs.wait(conn, path)
	if err == nil && result != "done" {
		err = fmt.Errorf("the job ended as %q", result)
	}
	return err
}

// named tells systemd's errors apart.
func named(err error, name string) bool {
	var on dbus.Error
	return errors.As(err, &on) && on.Name == service+"."+name
}
