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
	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/hub"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/record"
	"github.com/skiff-node/skiff/runtimeservice/spec"
	"github.com/skiff-node/skiff/runtimeservice/table"
	"github.com/skiff-node/skiff/runtimeservice/userns"
)

// What is recorded of sandboxes and containers, and the objects in memory.
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
	haste   *cgroup.Haste
	flights flight.Group
	hub     hub.Hub
	link    link.Link
	// handlers may change while the engine runs.
	handlers atomic.Pointer[handler.Set]
	users    userns.Trial // whether pods can have user namespaces
	guests   hooks.Guests

	boxes *table.Table[sandboxRecord]
	units *table.Table[containerRecord]
	view  record.View // of boxes and units
}

// The places below RunDir.
func (c *core) nsDir() string                 { return filepath.Join(c.cfg.RunDir, "ns") }
func (c *core) recordDir(kind string) string  { return filepath.Join(c.cfg.RunDir, "records", kind) }
func (c *core) copiesDir(id string) string    { return filepath.Join(c.cfg.RunDir, "restores", id) }
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

// notify tells the watchers of a change, with the whole pod as it is now.
func (c *core) notify(t runtimeservice.EventType, id, sandboxID string) {
	c.hub.Publish(func() runtimeservice.Event { return c.view.Event(t, id, sandboxID) })
}
