// Package keeper is the protocol between the CRI server and the keeper, the one process per node that is the
// parent of all containers: its messages, the client the CRI server uses, and the server the keeper runs.
//
// # Protocol
//
// A unix stream socket (<run>/keeper/keeper.sock, mode 0600, peer uid checked on accept). Every frame is
//
//	┌────────────┬──────────────────────────┐
//	│ length u32 │ JSON, length bytes        │   file descriptors ride on the first byte (SCM_RIGHTS)
//	└────────────┴──────────────────────────┘
//
//	CRI server                                keeper
//	    │ ── Hello{version} ──────────────────► │   first frame on each connection
//	    │ ◄───────────────── Hello{version,pid} │   an unknown major version is refused here
//	    │ ── Request{method, body} + fds ─────► │   one request at a time on a connection
//	    │ ◄──────────── Reply{error, body} + fds│
//	    │ ── Request{"events", {since}} ──────► │   turns the connection into a stream:
//	    │ ◄─────────────────────────── Event …  │   replay of the journal after since, then live
//
// Bulk data never passes through the protocol: the streams of an exec or attach are file descriptors that the
// CRI server made and the keeper hands to, or copies for, the process.
//
// An upgrade is no event for a client: connections, awaited answers and event streams are the successor's from the byte on
// at which the old keeper has left off.
//
// # Life of a container in the keeper
//
//	            create            start             exits
//	(nothing) ─────────► created ───────► running ─────────► exited
//	                        │ kill                             │
//	                        └──────────► exited    ◄───────────┘
//	                                        │ delete
//	                                        ▼
//	                                    (nothing)
//
// Every start and exit is a record in the keeper's journal (<run>/keeper/), written before it is announced, so
// a CRI server that was away learns each one, once, in order.
package keeper

import (
	"encoding/json"
	"time"
)

// Version is the protocol's version. The major part must match; the minor only ever adds optional fields.
const (
	VersionMajor = 1
	VersionMinor = 1
)

// The methods of the protocol.
const (
	MethodCreate     = "create"
	MethodStart      = "start"
	MethodKill       = "kill"
	MethodDelete     = "delete"
	MethodUpdate     = "update"
	MethodExec       = "exec"
	MethodWait       = "wait" // answered when the exec, or the container, has exited
	MethodAttach     = "attach"
	MethodResize     = "resize"
	MethodReopenLog  = "reopen-log"
	MethodList       = "list"
	MethodEvents     = "events"
	MethodShutdown   = "shutdown"   // refused while containers run
	MethodUpgrade    = "upgrade"    // since 1.1; carries a binary, answered by the one that takes over
	MethodCheckpoint = "checkpoint" // since 1.1; answered when CRIU is done
	MethodTakeOver   = "take-over"  // since 1.1
)

// Hello opens a connection, in both directions.
type Hello struct {
	Major int    `json:"major"`
	Minor int    `json:"minor"`
	Pid   int    `json:"pid,omitempty"`
	Build string `json:"build,omitempty"` // version of the binary, for people
}

// Request is one call.
type Request struct {
	Method string          `json:"method"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// Reply answers a Request. Code is one of the Code constants when the call failed.
type Reply struct {
	Code  string          `json:"code,omitempty"`
	Error string          `json:"error,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// Codes classify a failure; the client turns them into this package's sentinel errors.
const (
	CodeNotFound = "not-found"
	CodeExists   = "exists"
	CodeInvalid  = "invalid"
	CodeState    = "wrong-state"
	CodeInternal = "internal"
)

// State of a container or exec.
type State string

// The states drawn above.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Create makes a container from an OCI runtime specification. The root file system is mounted already; paths in
// the specification are absolute.
type Create struct {
	ID            string          `json:"id"`
	Spec          json.RawMessage `json:"spec"`             // OCI runtime spec 1.3 config.json
	Bundle        string          `json:"bundle"`           // directory for a foreign runtime's config.json
	Runtime       Runtime         `json:"runtime,omitzero"` // zero: libcontainer in process
	SystemdCgroup bool            `json:"systemdCgroup,omitempty"`
	Restore       string          `json:"restore,omitempty"` // directory that MethodCheckpoint wrote to: continue from there
	LogPath       string          `json:"logPath,omitempty"` // CRI log file; "" discards the output
	Stdin         bool            `json:"stdin,omitempty"`   // keep a stdin open for attach
	StdinOnce     bool            `json:"stdinOnce,omitempty"`
	TTY           bool            `json:"tty,omitempty"` // the same as spec.process.terminal
}

// Checkpoint has CRIU write a running container into a directory.
type Checkpoint struct {
	ID     string `json:"id"`
	Images string `json:"images"`
}

// Runtime names a foreign OCI runtime by its command line.
type Runtime struct {
	Handler string   `json:"handler,omitempty"`
	Path    string   `json:"path,omitempty"`
	Args    []string `json:"args,omitempty"`
	Root    string   `json:"root,omitempty"` // its own state directory; "" is one of the keeper's
	// Monitor: the processes it makes stand for those of the container, and are in none of its cgroups.
	Monitor bool `json:"monitor,omitempty"`
}

// Started answers MethodStart, and MethodCreate with the pid of the waiting init.
type Started struct {
	Pid int       `json:"pid"`
	At  time.Time `json:"at"`
}

// Listing answers MethodList. An event stream opened with After = Seq continues it without a gap.
type Listing struct {
	Seq        uint64      `json:"seq"`
	Containers []Container `json:"containers"`
}

// Target names a container, and an exec in it where ExecID is set.
type Target struct {
	ID     string `json:"id"`
	ExecID string `json:"execID,omitempty"`
}

// Kill sends a signal to the init, or to every process of the container.
type Kill struct {
	Target
	Signal int  `json:"signal"`
	All    bool `json:"all,omitempty"`
}

// Update changes resources of a running container.
type Update struct {
	ID        string          `json:"id"`
	Resources json.RawMessage `json:"resources"` // OCI LinuxResources
}

// Exec runs a process in a container. Without TTY the request carries up to three file descriptors, in the order
// stdin, stdout, stderr, for those streams that are named; with TTY the reply carries the pty master.
type Exec struct {
	Target
	Process json.RawMessage `json:"process"` // OCI Process
	Stdin   bool            `json:"stdin,omitempty"`
	Stdout  bool            `json:"stdout,omitempty"`
	Stderr  bool            `json:"stderr,omitempty"`
	TTY     bool            `json:"tty,omitempty"`
	Wait    bool            `json:"wait,omitempty"` // reply only after the process exited, with Exit filled in
}

// ExecReply answers MethodExec.
type ExecReply struct {
	Pid  int   `json:"pid"`
	Exit *Exit `json:"exit,omitempty"`
}

// Attach connects file descriptors to a container's streams, until the container exits or the peer closes them.
// The request carries them in the order stdin, stdout, stderr, for those that are named.
type Attach struct {
	ID     string `json:"id"`
	Stdin  bool   `json:"stdin,omitempty"`
	Stdout bool   `json:"stdout,omitempty"`
	Stderr bool   `json:"stderr,omitempty"`
}

// Resize sets the size of a terminal.
type Resize struct {
	Target
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Exit is how a process ended. Code is 128+signal for a killed one, 255 with Unknown set where it cannot be known.
type Exit struct {
	Code      int       `json:"code"`
	Signal    int       `json:"signal,omitempty"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	Unknown   bool      `json:"unknown,omitempty"`
	At        time.Time `json:"at"`
}

// Container is one row of the keeper's table (MethodList).
type Container struct {
	ID        string    `json:"id"`
	State     State     `json:"state"`
	Pid       int       `json:"pid,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	Exit      *Exit     `json:"exit,omitempty"`
}

// Event is one change of a container, numbered without gaps. An event stream that starts with a Seq greater than
// asked for has lost nothing but what the journal no longer holds: list then.
type Event struct {
	Seq   uint64    `json:"seq"`
	ID    string    `json:"id"`
	State State     `json:"state"` // Created, Running, Exited; "" after delete
	Pid   int       `json:"pid,omitempty"`
	At    time.Time `json:"at"`
	Exit  *Exit     `json:"exit,omitempty"`
}

// Upgrade asks the keeper to become the binary that the request carries, a sealed memfd. Nothing has changed when it fails.
type Upgrade struct{}

// Upgraded answers MethodUpgrade.
type Upgraded struct {
	Build string `json:"build"` // of the one that has taken over
}

// TakeOver says that the client is the successor of one that is gone. Calls of other connections that are under way are
// waited for, so that a list shows what they have done, and execs, which nobody waits for any more, are killed.
type TakeOver struct{}

// Since opens an event stream: events with a Seq greater than After are replayed first.
type Since struct {
	After uint64 `json:"after"`
}
