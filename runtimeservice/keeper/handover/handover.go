// Package handover is what a keeper hands to its successor when it is upgraded by execve(2): a JSON document in a memfd, and
// the open files that it names by number. The process, and so its children, stay the same.
//
// What is on disk anyway is not in it, with two exceptions, which a full disk may have kept from being written: records and
// events. A reader ignores fields that it does not know. So a field may be added as long as an older successor, which ignores
// it, loses nothing that matters; else MinReader is raised, and an older successor refuses before anything has happened.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Version of the document that this build writes; MinReader is the oldest that understands it.
const (
	Version   = 1
	MinReader = 1
)

// State is the document.
type State struct {
	Version    int            `json:"version"`
	MinReader  int            `json:"minReader"`
	Build      string         `json:"build"` // of the one who wrote it, for people
	Lock       int            `json:"lock"`  // file numbers
	Listener   int            `json:"listener"`
	Events     []keeper.Event `json:"events,omitempty"` // those that can be replayed
	Containers []Container    `json:"containers,omitempty"`
	Sessions   []Session      `json:"sessions,omitempty"`
}

// Container is one row of the table.
type Container struct {
	Record json.RawMessage `json:"record"`         // as in its directory
	Ours   *int            `json:"ours,omitempty"` // the terminal's master, or our end of stdin
	Peers  []Peer          `json:"peers,omitempty"`
	Execs  []Exec          `json:"execs,omitempty"`
}

// Peer is an attached file.
type Peer struct {
	File   int    `json:"file"`
	Stream string `json:"stream"`         // stdin, stdout or stderr
	Rest   []byte `json:"rest,omitempty"` // what was taken and not passed on yet
}

// Exec is a process in a container, running or ended.
type Exec struct {
	ID       string       `json:"id"`
	Pid      int          `json:"pid"`
	Terminal *int         `json:"terminal,omitempty"`
	Exit     *keeper.Exit `json:"exit,omitempty"`
	Told     bool         `json:"told,omitempty"`
}

// Session is a connection, between two requests or with one that is answered later.
type Session struct {
	File    int      `json:"file"`
	Greeted bool     `json:"greeted,omitempty"`
	Pending *Pending `json:"pending,omitempty"`
}

// Pending is a request whose answer is awaited.
type Pending struct {
	Method string `json:"method"` // wait, exec, events or upgrade
	ID     string `json:"id,omitempty"`
	ExecID string `json:"execID,omitempty"`
	After  uint64 `json:"after,omitempty"` // of events: the last one sent
}

// Ability is what a keeper's binary says of itself when it is asked with -check.
type Ability struct {
	Major   int    `json:"major"` // of the protocol
	Minor   int    `json:"minor"`
	Version int    `json:"version"` // of State
	Build   string `json:"build"`
}

// Own is this binary's ability.
func Own(build string) Ability {
	return Ability{Major: keeper.VersionMajor, Minor: keeper.VersionMinor, Version: Version, Build: build}
}

// ErrSuccessor says that a binary cannot take over.
var ErrSuccessor = errors.New("the new keeper cannot take over")

// Accept says whether a binary with that ability can take over from this one.
func Accept(a Ability) error {
	if a.Major != keeper.VersionMajor {
		return fmt.Errorf("%w: it speaks protocol %d, the running one %d; stop all containers first", ErrSuccessor, a.Major, keeper.VersionMajor)
	}
	if a.Version < MinReader {
		return fmt.Errorf("%w: it reads state of version %d, the running one writes %d", ErrSuccessor, a.Version, Version)
	}
	return nil
}

// Decode reads a document that any keeper has written.
func Decode(text []byte) (State, error) {
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%w: read state: %w", ErrSuccessor, err)
	}
	if s.Version < 1 || s.MinReader > Version {
		return s, fmt.Errorf("%w: its state has version %d and wants a reader of %d, this is %d", ErrSuccessor, s.Version, s.MinReader, Version)
	}
	for _, number := range s.numbers() {
		if number < 3 {
			return s, fmt.Errorf("%w: its state names file %d", ErrSuccessor, number)
		}
	}
	return s, nil
}

// numbers are all files that are handed over.
func (s State) numbers() []int {
	out := []int{s.Lock, s.Listener}
	for _, c := range s.Containers {
		if c.Ours != nil {
			out = append(out, *c.Ours)
		}
		for _, p := range c.Peers {
			out = append(out, p.File)
		}
		for _, e := range c.Execs {
			if e.Terminal != nil {
				out = append(out, *e.Terminal)
			}
		}
	}
	for _, session := range s.Sessions {
		out = append(out, session.File)
	}
	return out
}

// Inherit says whether all files that are handed over, and further ones, survive the next execve.
func (s State) Inherit(yes bool, more ...int) error {
	flags := unix.FD_CLOEXEC
	if yes {
		flags = 0
	}
	for _, fd := range append(s.numbers(), more...) {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags); err != nil {
			return fmt.Errorf("hand over file %d: %w", fd, err)
		}
	}
	return nil
}

// Write puts the document into a memfd, which is close-on-exec still.
func Write(s State) (*os.File, error) {
	s.Version, s.MinReader = Version, MinReader
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	fd, err := unix.MemfdCreate("skiff-keeper-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memfd for state: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	if _, err := f.WriteAt(text, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write state: %w", err)
	}
	return f, nil
}

// Read reads the document from its memfd.
func Read(fd int) (State, error) {
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return State{}, fmt.Errorf("open state: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return State{}, fmt.Errorf("read state: %w", err)
	}
	return Decode(text)
}

// NumberOf is the file descriptor, without what os.File.Fd does to it.
func NumberOf(f syscall.Conn) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	number := -1
	err = raw.Control(func(fd uintptr) { number = int(fd) })
	return number, err
}

// PointTo is that of an optional file.
func PointTo(f *os.File) (*int, error) {
	number, err := NumberOf(f)
	return &number, err
}

// Inherited makes a file of a number that was handed over.
func Inherited(number int, name string) *os.File {
	syscall.CloseOnExec(number)
	return os.NewFile(uintptr(number), name)
}
