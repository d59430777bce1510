// Package entry takes a process into a container without libcontainer's init: what that does in Go, after two forks and a
// start of the Go runtime, is written down as a program of system calls by [Compile], and carried out by some C in a
// process of its own, see init.c. This is the short way for the containers that a node mostly runs. Compile says which
// take the long one, and one whose program fails takes it too: so libcontainer says what is wrong, and its word is the last.
//
// The result is the same, which a test shows by looking at containers of either way from within.
package entry

// #include "init.h"
import "C"

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Arg is the only argument of a process that runs a program.
const Arg = C.ENTRY_ARG

// Channel is the descriptor of the socket between such a process and its parent.
const Channel = C.ENTRY_CHANNEL

// Fifo is the descriptor of the fifo that the process waits at; Tree that of a mount which is to be attached, if any.
const (
	Fifo = Channel + 1
	Tree = Channel + 2
)

// operation is one kind of step.
type operation uint32

// Program is what a process is to do.
type Program struct {
	code  []byte
	steps []string // what each operation does, for people
	zero  bool     // a text has a zero byte within
}

// begin adds an operation; its arguments follow.
func (p *Program) begin(op operation, what string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(what, args...))
	p.u32(uint32(op))
}

func (p *Program) u32(v uint32) { p.code = binary.NativeEndian.AppendUint32(p.code, v) }
func (p *Program) u64(v uint64) { p.code = binary.NativeEndian.AppendUint64(p.code, v) }

func (p *Program) text(s string) {
	p.zero = p.zero || strings.ContainsRune(s, 0)
	p.u32(uint32(len(s)))
	p.code = append(append(p.code, s...), 0)
}

func (p *Program) texts(list []string) {
	p.u32(uint32(len(list)))
	for _, s := range list {
		p.text(s)
	}
}

// bytes is what is sent: the length, and the program.
func (p *Program) bytes() []byte {
	return append(binary.NativeEndian.AppendUint32(nil, uint32(len(p.code))), p.code...)
}

// answer is what the process says: that it is ready, or which operation failed.
type answer struct {
	Kind, At uint32
	Errno    int32
}

// answerSize is the length of one.
const answerSize = C.sizeof_struct_answer

func readAnswer(b []byte) answer {
	word := func(i int) uint32 { return binary.NativeEndian.Uint32(b[4*i:]) }
	return answer{word(0), word(1), int32(word(2))}
}

// err is why the process did not get further.
func (p *Program) err(a answer) error {
	what := "unknown step"
	if int(a.At) < len(p.steps) {
		what = p.steps[a.At]
	}
	return fmt.Errorf("%s: %w", what, unix.Errno(a.Errno))
}
