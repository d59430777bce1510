// Package systemdtest is a systemd for tests: it answers on a message bus of its own, holds slices and their properties, and makes
// directories for them in a tree that is no control group. It refuses what systemd refuses.
package systemdtest

import (
	"bufio"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// Names on the bus.
const (
	service = "org.freedesktop.systemd1"
	object  = "/org/freedesktop/systemd1"
	manager = service + ".Manager"
)

// Property is a property of a unit, as it is written on the bus.
type Property struct {
	Name  string
	Value dbus.Variant
}

// Auxiliary is a unit that comes with another one.
type Auxiliary struct {
	Name       string
	Properties []Property
}

// Systemd is the fake.
type Systemd struct {
	// Address of its bus.
	Address string
	root    string
	conn    *dbus.Conn
	props   *prop.Properties

	mu     sync.Mutex
	units  map[string]map[string]any
	jobs   uint32
	result string
}

// Start starts a bus with a systemd of that version ("257"), which makes groups below root. The test is skipped where there is no
// dbus-daemon.
func Start(t *testing.T, version, root string) *Systemd {
	t.Helper()
	s := &Systemd{Address: StartBus(t), root: root, units: map[string]map[string]any{}, result: "done"}
	var err error
	if s.conn, err = dbus.Connect(s.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	if s.props, err = prop.Export(s.conn, object, prop.Map{manager: {"Version": {Value: version}}}); err != nil {
		t.Fatal(err)
	}
	methods := map[string]any{"StartTransientUnit": s.startTransientUnit, "SetUnitProperties": s.setUnitProperties, "StopUnit": s.stopUnit,
		"ResetFailedUnit": s.resetFailedUnit}
	if err := s.conn.ExportMethodTable(methods, object, manager); err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.RequestName(service, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return s
}

// StartBus starts a message bus that ends with the test. The test is skipped where there is no dbus-daemon.
func StartBus(t *testing.T) (address string) {
	t.Helper()
	daemon, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("no dbus-daemon on this machine")
	}
	cmd := exec.Command(daemon, "--session", "--nofork", "--print-address=1", "--address=unix:path="+filepath.Join(t.TempDir(), "bus"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if address, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// Units are the names of the slices that there are.
func (s *Systemd) Units() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range maps.Keys(s.units) {
		names = append(names, name)
	}
	return names
}

// Unit has the properties of a slice; nil when it does not exist.
func (s *Systemd) Unit(name string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.units[name])
}

// End is how jobs end from now on: "done", "failed".
func (s *Systemd) End(result string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.result = result
}

// known are properties of slices, each with a value of its type.
var known = map[string]any{"Description": "", "Wants": []string{}, "DefaultDependencies": false,
	"MemoryAccounting": false, "CPUAccounting": false, "IOAccounting": false, "TasksAccounting": false,
	"CPUWeight": uint64(0), "CPUShares": uint64(0), "CPUQuotaPerSecUSec": uint64(0), "CPUQuotaPeriodUSec": uint64(0), "TasksMax": uint64(0),
	"MemoryMax": uint64(0), "MemoryMin": uint64(0), "MemoryLow": uint64(0), "MemoryHigh": uint64(0), "MemoryLimit": uint64(0), "AllowedCPUs": []byte{}}

func refuse(name, format string, args ...any) *dbus.Error {
	return dbus.NewError(name, []any{fmt.Sprintf(format, args...)})
}

// assign takes properties over, or none if one of them is wrong.
func assign(to map[string]any, properties []Property) *dbus.Error {
	for _, p := range properties {
		like, ok := known[p.Name]
		if !ok {
			return refuse("org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property %s, or unknown property.", p.Name)
		}
		if fmt.Sprintf("%T", like) != fmt.Sprintf("%T", p.Value.Value()) {
			return refuse("org.freedesktop.DBus.Error.InvalidArgs", "%s is a %T", p.Name, p.Value.Value())
		}
	}
	for _, p := range properties {
		to[p.Name] = p.Value.Value()
	}
	return nil
}

// job is told to be over at once, before the call that began it returns. s.mu is held.
func (s *Systemd) job(unit string) (dbus.ObjectPath, *dbus.Error) {
	s.jobs++
	path := dbus.ObjectPath(fmt.Sprintf("%s/job/%d", object, s.jobs))
	if err := s.conn.Emit(object, manager+".JobRemoved", s.jobs, path, unit, s.result); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	return path, nil
}

func (s *Systemd) startTransientUnit(unit, mode string, properties []Property, _ []Auxiliary) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mode != "replace" || !strings.HasSuffix(unit, ".slice") {
		return "", refuse("org.freedesktop.DBus.Error.InvalidArgs", "%s, %s", unit, mode)
	}
	if s.units[unit] != nil {
		return "", refuse(service+".UnitExists", "Unit %s was already loaded or has a fragment file.", unit)
	}
	made := map[string]any{}
	if err := assign(made, properties); err != nil {
		return "", err
	}
	if s.result == "done" {
		s.units[unit] = made
		if err := os.MkdirAll(s.dir(unit), 0o755); err != nil {
			return "", dbus.MakeFailedError(err)
		}
	}
	return s.job(unit)
}

func (s *Systemd) setUnitProperties(unit string, runtime bool, properties []Property) *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.units[unit] == nil || !runtime {
		return refuse(service+".NoSuchUnit", "Unit %s not loaded.", unit)
	}
	return assign(s.units[unit], properties)
}

func (s *Systemd) stopUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.units[unit] == nil || mode != "replace" {
		return "", refuse(service+".NoSuchUnit", "Unit %s not loaded.", unit)
	}
	delete(s.units, unit)
	if err := os.RemoveAll(s.dir(unit)); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	return s.job(unit)
}

func (s *Systemd) resetFailedUnit(unit string) *dbus.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.units[unit] == nil {
		return refuse(service+".NoSuchUnit", "Unit %s not loaded.", unit)
	}
	return nil
}

// dir is where the group of a slice is: each dash in its name is a step down.
func (s *Systemd) dir(unit string) string {
	dir, name := s.root, strings.TrimSuffix(unit, ".slice")
	for i, c := range name {
		if c == '-' {
			dir = filepath.Join(dir, name[:i]+".slice")
		}
	}
	return filepath.Join(dir, unit)
}
