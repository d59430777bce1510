package engine

import (
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/flight"
	"github.com/skiff-node/skiff/runtimeservice/handler"
	"github.com/skiff-node/skiff/runtimeservice/hub"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/record"
	"github.com/skiff-node/skiff/runtimeservice/spec"
	"github.com/skiff-node/skiff/runtimeservice/table"
	"github.com/skiff-node/skiff/runtimeservice/userns"
)

type (
	sandboxRecord   = record.Sandbox
	containerRecord = record.Container
	sandbox         = table.Object[sandboxRecord]
	container       = table.Object[containerRecord]
)

// core is what the roles share: the objects, and the services below.
type core struct {
	cfg     Config
	log     *slog.Logger
	host    spec.Host
	cgroups cgroup.Root
	flights flight.Group
	hub     hub.Hub
	link    link.Link
	// handlers may change while the engine runs.
	handlers atomic.Pointer[handler.Set]
	users    userns.Trial // whether pods can have user namespaces

	boxes *table.Table[sandboxRecord]
	units *table.Table[containerRecord]
}

// The places below RunDir.
func (c *core) nsDir() string                 { return filepath.Join(c.cfg.RunDir, "ns") }
func (c *core) recordDir(kind string) string  { return filepath.Join(c.cfg.RunDir, "records", kind) }
func (c *core) sandboxDir(id string) string   { return filepath.Join(c.cfg.RunDir, "sandboxes", id) }
func (c *core) containerDir(id string) string { return filepath.Join(c.cfg.RunDir, "containers", id) }
func (c *core) nsPath(id, kind string) string { return filepath.Join(c.nsDir(), id+"-"+kind) }

// newID is 64 hex digits, as every tool that reads cgroup paths expects.
func newID() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	return hex.EncodeToString(raw[:])
}

// now is the wall clock without its monotonic part, which records cannot keep.
func now() time.Time { return time.Now().Round(0) }

// containersOf are the containers of a sandbox.
func (c *core) containersOf(sandboxID string) []*container {
	var out []*container
	for _, o := range c.units.All() {
		if o.Record().Container.SandboxID == sandboxID {
			out = append(out, o)
		}
	}
	return out
}

// notify tells the watchers of a change, with the whole pod as it is now.
func (c *core) notify(t runtimeservice.EventType, id, sandboxID string) {
	c.hub.Publish(func() runtimeservice.Event {
		e := runtimeservice.Event{ID: id, Type: t, At: now()}
		if o, err := c.boxes.Find(sandboxID); err == nil {
			s := o.Record().Public()
			e.Sandbox = &s
		}
		for _, o := range c.containersOf(sandboxID) {
			e.Containers = append(e.Containers, o.Record().Public())
		}
		return e
	})
}
