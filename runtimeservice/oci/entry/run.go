package entry

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is one that waits for its program.
type Process struct {
	Pid     int
	process *os.Process
	channel *os.File
}

// Streams are files for the new process; nil is /dev/null.
type Streams struct {
	Stdin, Stdout, Stderr *os.File
}

// Begin makes the process, in the container's new namespaces. It does nothing before it is told: until then it may be
// put into cgroups. Fifo is opened by path only (O_PATH); tree may be nil.
func Begin(flags uintptr, streams Streams, fifo, tree *os.File) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "channel")
	defer theirs.Close()
	_ = unix.SetNonblock(pair[0], true) // so that no thread waits
	ours := os.NewFile(uintptr(pair[0]), "channel")
	files := []*os.File{streams.Stdin, streams.Stdout, streams.Stderr, theirs, fifo}
	if tree != nil {
		files = append(files, tree)
	}
	for i, f := range files[:3] {
		if f != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			ours.Close()
			return nil, err
		}
		defer null.Close()
		files[i] = null
	}
	process, err := os.StartProcess("/proc/self/exe", []string{os.Args[0], Arg}, &os.ProcAttr{
		Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Cloneflags: flags, Setsid: true},
	})
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start init: %w", err)
	}
	return &Process{Pid: process.Pid, process: process, channel: ours}, nil
}

// Tell sends the program.
func (p *Process) Tell(program *Program) error {
	if _, err := p.channel.Write(program.bytes()); err != nil {
		return fmt.Errorf("send the program to init: %w", err)
	}
	return nil
}

// AwaitReady waits until all is ready for the process to become the user's: not before may the cgroup forbid devices.
func (p *Process) AwaitReady(program *Program) error { return p.hear(program) }

// hear reads one answer.
func (p *Process) hear(program *Program) error {
	var b [answerSize]byte
	if _, err := io.ReadFull(p.channel, b[:]); err != nil {
		return fmt.Errorf("init ended: %w", err)
	}
	if a := readAnswer(b[:]); a.Errno != 0 {
		return program.err(a)
	}
	return nil
}

// Finish lets it become that, and returns when it waits at the fifo. The process is not the caller's child in any other
// way than that it has to be reaped.
func (p *Process) Finish(program *Program) error {
	if _, err := p.channel.Write([]byte{1}); err != nil {
		return fmt.Errorf("let init go on: %w", err)
	}
	if err := p.hear(program); err != nil {
		return err
	}
	p.channel.Close()
	return p.process.Release()
}

// Abort ends the process and reaps it.
func (p *Process) Abort() {
	p.channel.Close()
	_ = p.process.Kill()
	_, _ = p.process.Wait()
}
