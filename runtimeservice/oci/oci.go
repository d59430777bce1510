// Package oci drives OCI runtimes for the keeper: libcontainer in process ([Native]) and any other runtime by its
// command line ([Foreign]). The keeper alone links it; whoever calls it becomes the parent of the containers.
//
// A runtime here keeps nothing in memory: all it knows of a container is on disk under its root directory and in the
// [Created] that Create returned. So one method may run beside another, and a keeper that was replaced goes on with
// the same containers. In particular an exec loads the container afresh, because libcontainer's own Container holds
// one lock over all of a start or exec.
//
// What the machine does not permit (no CAP_SYS_RESOURCE) is clamped rather than refused, see restrict.go.
package oci

import (
	"encoding/json"
	"errors"
	"os"
)

// Errors of this package.
var (
	ErrSpec = errors.New("invalid OCI specification")
	ErrGone = errors.New("container's init has exited")
)

// IO is what a new process gets as its streams: files that stay the caller's, nil meaning /dev/null; or, with TTY, a new
// terminal, and no files.
type IO struct {
	Stdin, Stdout, Stderr *os.File
	TTY                   bool
}

// Create says what container to make.
type Create struct {
	ID            string
	Spec          json.RawMessage // OCI runtime specification
	Bundle        string          // directory for config.json; Foreign only
	SystemdCgroup bool
	Restore       string // continue from what Checkpoint has written into this directory; Native only
	IO            IO
}

// Created is a container whose init waits to be started. It is all that is ever needed besides the ID.
type Created struct {
	Pid       int               `json:"pid"`
	Cgroups   map[string]string `json:"cgroups,omitempty"`   // controller → directory; "" is the unified one
	SharedPid bool              `json:"sharedPid,omitempty"` // the init is not the first process of its PID namespace
	Console   *os.File          `json:"-"`                   // master of the terminal, the caller's
}

// Process is an exec'ed process.
type Process struct {
	Pid     int
	Console *os.File // master of the terminal, the caller's
}
