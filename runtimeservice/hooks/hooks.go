// Package hooks is where others take part in the life of sandboxes and containers. The engine calls, plugins answer
// (package nri). Where nobody takes part there are no Hooks, and nothing is called.
package hooks

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Pod is a sandbox, and where its cgroup is.
type Pod struct {
	runtimeservice.Sandbox
	Cgroup string
}

// Unit is a container, where its cgroup is, and its specification, which is read when somebody wants it.
type Unit struct {
	runtimeservice.Container
	Cgroup string
	Spec   func() (*specs.Spec, error)
}

// Moment is a point in the life of a sandbox or container.
type Moment string

// The moments. An error of one that begins with Run or Start is a veto; at the others there is nothing to prevent.
const (
	RunSandbox       Moment = "run sandbox"       // all is made, nobody has seen it yet
	SandboxUpdated   Moment = "sandbox updated"   //
	StopSandbox      Moment = "stop sandbox"      // its containers have ended, its network is there
	RemoveSandbox    Moment = "remove sandbox"    // its containers are gone
	ContainerCreated Moment = "container created" //
	StartContainer   Moment = "start container"   //
	ContainerStarted Moment = "container started" //
	ContainerUpdated Moment = "container updated" //
	StopContainer    Moment = "stop container"    // it has ended, by itself or because it was told to
	RemoveContainer  Moment = "remove container"  //
)

// Hooks is who takes part.
type Hooks interface {
	// Anybody says whether somebody takes part at the moment. Nothing else is called while nobody does, but Hold.
	Anybody() bool
	// Hold keeps new participants from joining until the function is called, which it may be more than once: what is
	// under way has been in their list or will be told to them. Who holds must not hold again.
	Hold() (release func())
	// Tell says what is about to happen or has happened. The unit is nil when it concerns the pod.
	Tell(ctx context.Context, m Moment, p Pod, u *Unit) error
	// Adjust changes the specification of a container that is being created.
	Adjust(ctx context.Context, p Pod, u Unit, s *specs.Spec) error
	// Resize changes the resources that a container is about to get.
	Resize(ctx context.Context, p Pod, u Unit, r runtimeservice.Resources) (runtimeservice.Resources, error)
	// ResizePod is told of the resources that a pod is about to get.
	ResizePod(ctx context.Context, p Pod, overhead, resources *runtimeservice.Resources) error
}
