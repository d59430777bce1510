// Package runtimeservice is the contract of the container runtime: what sandboxes and containers are, how they
// are asked for, and what can be asked of them. It holds nouns, small interfaces by role and sentinel errors;
// package engine implements it. The nouns are ours, not CRI's protobuf: package cri translates at the edge.
//
// # Life of a sandbox
//
//	      RunSandbox              StopSandbox              RemoveSandbox
//	(nothing) ─────► creating ─────► ready ─────► stopping ─────► stopped ─────► removing ─────► (nothing)
//	                    │ fails, or a crash is found                                  ▲
//	                    └──────────────────── undo ───────────────────────────────────┘
//
// A sandbox has no process of its own. It is its pinned namespaces, its shared memory file system, its network
// and its record. The record is written before anything is made, so that whoever finds it after a crash can undo
// what it announces: creating is undone, stopping and removing are done again to the end.
//
// # Life of a container
//
//	CreateContainer          StartContainer          exits, StopContainer         RemoveContainer
//	(nothing) ─► creating ─► created ─► running ──────────────► exited ─► removing ─► (nothing)
//
// Create mounts the root file system and fixes the OCI specification; no process exists yet. Start has the keeper
// create and start the process. The keeper, not this process, is its parent and writer of its log, so all of this
// survives the death of the runtime service; at start it takes the keeper's word for what happened meanwhile.
//
// # Repeating a call
//
// Every call may be repeated. The same request that arrives while the first still runs joins it and gets its
// answer; an identity is never reserved by a call that has failed. Stop and Remove of what is gone succeed.
package runtimeservice

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"time"
)

// Sentinel errors. The edge maps each to one gRPC code.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("already exists")
	ErrInvalid     = errors.New("invalid request")
	ErrState       = errors.New("wrong state for this call")
	ErrUnsupported = errors.New("not supported")
	ErrTimeout     = errors.New("timed out")
	// ErrRecursiveReadOnly and ErrImageVolume are told apart by the kubelet.
	ErrRecursiveReadOnly = errors.New("recursive read-only mount is not possible")
	ErrImageVolume       = errors.New("image volume cannot be mounted")
)

// Service is the whole runtime of a node, role by role.
type Service struct {
	Sandboxes  Sandboxes
	Containers Containers
	Processes  Processes
	Meters     Meters
	Events     Events
	Node       Node
	Inspector  Inspector
	// Checkpoints may be nil: then there are none.
	Checkpoints Checkpoints
}

// Sandboxes runs pod sandboxes.
type Sandboxes interface {
	// RunSandbox makes a sandbox with its network up and returns its id. An identical sandbox that is ready is
	// returned as it is.
	RunSandbox(ctx context.Context, c SandboxConfig) (id string, err error)
	// StopSandbox kills its containers and takes its network down.
	StopSandbox(ctx context.Context, id string) error
	// RemoveSandbox removes it with its containers, stopping it first where needed.
	RemoveSandbox(ctx context.Context, id string) error
	// Sandbox finds a sandbox by id or unique prefix of it.
	Sandbox(ctx context.Context, id string) (Sandbox, error)
	ListSandboxes(ctx context.Context, f Filter) ([]Sandbox, error)
	// UpdateSandbox tells the runtime of the pod's new resources; the pod's cgroup is the caller's to write.
	UpdateSandbox(ctx context.Context, id string, overhead, resources *Resources) error
}

// Containers runs containers in sandboxes.
type Containers interface {
	CreateContainer(ctx context.Context, sandboxID string, c ContainerConfig) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the stop signal, and SIGKILL when timeout has passed. It returns when the container
	// has ended.
	StopContainer(ctx context.Context, id string, timeout time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	Container(ctx context.Context, id string) (Container, error)
	ListContainers(ctx context.Context, f Filter) ([]Container, error)
	UpdateContainer(ctx context.Context, id string, r Resources) error
	ReopenLog(ctx context.Context, id string) error
}

// Processes reaches into running containers and sandboxes.
type Processes interface {
	// ExecSync runs a command to its end. Output beyond MaxExecOutput per stream is dropped. When timeout (0: none)
	// passes, the process is killed and the error wraps ErrTimeout.
	ExecSync(ctx context.Context, id string, argv []string, timeout time.Duration) (ExecResult, error)
	// Exec runs a command with the given streams and returns its exit code.
	Exec(ctx context.Context, id string, argv []string, s Streams) (code int, err error)
	// Attach connects streams to the container's main process until it ends or the peer leaves.
	Attach(ctx context.Context, id string, s Streams) error
	// PortForward copies between rw and a port on the loopback of the sandbox's network.
	PortForward(ctx context.Context, sandboxID string, port uint16, rw io.ReadWriteCloser) error
}

// Meters measures.
type Meters interface {
	ContainerStats(ctx context.Context, id string) (ContainerStats, error)
	ListContainerStats(ctx context.Context, f Filter) ([]ContainerStats, error)
	SandboxStats(ctx context.Context, id string) (SandboxStats, error)
	ListSandboxStats(ctx context.Context, f Filter) ([]SandboxStats, error)
	// ListDetails measures all ready sandboxes and their running containers, in full.
	ListDetails(ctx context.Context) ([]SandboxDetail, error)
}

// Events tells what changes.
type Events interface {
	// Watch calls fn with each event from now on, one at a time and in order, until ctx is done or fn fails.
	Watch(ctx context.Context, fn func(Event) error) error
}

// Node is what concerns the node as a whole.
type Node interface {
	Status(ctx context.Context) Status
	SetPodCIDRs(ctx context.Context, cidrs []netip.Prefix) error
}

// Inspector looks deeper than clients need to.
type Inspector interface {
	// Spec is the OCI specification that a container was made with, as JSON; nil when it has none any more.
	Spec(ctx context.Context, id string) (json.RawMessage, error)
}

// MaxExecOutput bounds each output stream of ExecSync, in bytes (CVE-2022-1708).
const MaxExecOutput = 16 << 20

// ExecResult is the outcome of ExecSync.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int
}

// Streams are the ends of an interactive session. A nil stream is not connected. With TTY, Stderr is nil.
type Streams struct {
	Stdin  io.Reader
	Stdout io.WriteCloser
	Stderr io.WriteCloser
	TTY    bool
	Resize <-chan TerminalSize // nil when the size never changes; closed at the end
}

// TerminalSize is in characters.
type TerminalSize struct{ Width, Height uint16 }

// Status is the health of the node's runtime. A nil error means ready.
type Status struct {
	Runtime  error
	Network  error
	Handlers []Handler
	Features Features
	// SystemdCgroups: the cgroup driver is systemd, not cgroupfs.
	SystemdCgroups bool
	Info           map[string]any // for people: versions, directories, what the machine lacks
}

// Features are what this runtime can do whatever the handler.
type Features struct {
	UserNamespacesHostNetwork bool // a user namespace of the pod's own, with the host's network
}

// Handler is a runtime handler that a sandbox may ask for. The default one is named "" as well.
type Handler struct {
	Name                    string
	RecursiveReadOnlyMounts bool
	UserNamespaces          bool
}
