// Package record is what is written down of sandboxes and containers, and how others see what there is.
package record

import (
	"log/slog"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
)

// Sandbox is what survives the process of a sandbox. It is enough to undo all of it.
type Sandbox struct {
	Sandbox    runtimeservice.Sandbox
	Phase      lifecycle.Phase
	Cgroup     string // the pod's cgroup
	CgroupMade bool   // it did not exist before: it goes with the sandbox
	Pause      bool   // there is a pause process that holds the pod's PID namespace
}

// Container is what survives the process of a container.
type Container struct {
	Container runtimeservice.Container
	Phase     lifecycle.Phase
	Cgroup    string
	Volumes   int  // root file systems of image volumes, by number
	Restore   bool // its start continues from a checkpoint

	Early *Ending `json:"-"` // an end that was learned before the start was
}

// Ending is the end of a process.
type Ending struct {
	Pid  int
	Exit keeper.Exit
}

// Key, At and WithPhase make the records fit for a table.
func (r Sandbox) Key() string         { return r.Sandbox.ID }
func (r Sandbox) At() lifecycle.Phase { return r.Phase }
func (r Sandbox) WithPhase(p lifecycle.Phase) Sandbox {
	r.Phase = p
	return r
}

func (r Container) Key() string         { return r.Container.ID }
func (r Container) At() lifecycle.Phase { return r.Phase }
func (r Container) WithPhase(p lifecycle.Phase) Container {
	r.Phase = p
	return r
}

// Public is the sandbox as clients see it.
func (r Sandbox) Public() runtimeservice.Sandbox {
	s := r.Sandbox
	s.State = runtimeservice.SandboxNotReady
	if r.Phase == lifecycle.Ready {
		s.State = runtimeservice.SandboxReady
	}
	return s
}

// Public is the container as clients see it. What is being removed ended before.
func (r Container) Public() runtimeservice.Container {
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

// Keys name the sandbox in the log.
func (r Sandbox) Keys() slog.Attr {
	m := r.Sandbox.Config.Metadata
	return slog.Group("", "pod", m.Namespace+"/"+m.Name, "sandbox", r.Sandbox.ID)
}
