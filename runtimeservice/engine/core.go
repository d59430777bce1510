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
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/spec"
	"github.com/skiff-node/skiff/runtimeservice/table"
	"github.com/skiff-node/skiff/runtimeservice/userns"
)

// sandboxRecord is what survives this process of a sandbox. It is enough to undo all of it.
type sandboxRecord struct {
	Sandbox    runtimeservice.Sandbox
	Phase      lifecycle.Phase
	Cgroup     string // the pod's cgroup
	CgroupMade bool   // it did not exist before: it goes with the sandbox
	Pause      bool   // there is a pause process that holds the pod's PID namespace
}

// containerRecord is what survives this process of a container.
type containerRecord struct {
	Container runtimeservice.Container
	Phase     lifecycle.Phase
	Cgroup    string
	Volumes   int // root file systems of image volumes, by number
}

type (
	sandbox   = table.Object[sandboxRecord]
	container = table.Object[containerRecord]
)

// Key, At and WithPhase make the records fit for a table.
func (r sandboxRecord) Key() string         { return r.Sandbox.ID }
func (r sandboxRecord) At() lifecycle.Phase { return r.Phase }
func (r sandboxRecord) WithPhase(p lifecycle.Phase) sandboxRecord {
	r.Phase = p
	return r
}

func (r containerRecord) Key() string         { return r.Container.ID }
func (r containerRecord) At() lifecycle.Phase { return r.Phase }
func (r containerRecord) WithPhase(p lifecycle.Phase) containerRecord {
	r.Phase = p
	return r
}

// public is the sandbox as clients see it.
func (r sandboxRecord) public() runtimeservice.Sandbox {
	s := r.Sandbox
	s.State = runtimeservice.SandboxNotReady
	if r.Phase == lifecycle.Ready {
		s.State = runtimeservice.SandboxReady
	}
	return s
}

// public is the container as clients see it. What is being removed ended before.
func (r containerRecord) public() runtimeservice.Container {
	c := r.Container
	switch r.Phase {
	case lifecycle.Created, lifecycle.Creating:
		c.State = runtimeservice.ContainerCreated
	case lifecycle.Running:
		c.State = runtimeservice.ContainerRunning
	case lifecycle.Exited, lifecycle.Removing:
		c.State = runtimeservice.ContainerExited
	default:
		c.State = runtimeservice.ContainerUnknown
	}
	return c
}

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
			s := o.Record().public()
			e.Sandbox = &s
		}
		for _, o := range c.containersOf(sandboxID) {
			e.Containers = append(e.Containers, o.Record().public())
		}
		return e
	})
}
