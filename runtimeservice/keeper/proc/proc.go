// Package proc holds single processes by pidfd: it waits for them without a thread each, reaps exactly the one it was
// asked for, and never signals a stranger that got the number later. The keeper must not call wait4(-1): libcontainer
// and os/exec wait for children of their own.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process has exited already.
var ErrGone = errors.New("process is gone")

// Status is how a process ended.
type Status struct {
	Code    int // exit code, 128+Signal when a signal ended it, 255 when unknown
	Signal  int
	Unknown bool
}

// Process is one process, running or exited, that we hold.
type Process struct {
	Pid  int
	fd   *os.File
	once sync.Once
	done chan struct{}
	last Status
}

// Open holds the process with the given number, which must be a child of ours or otherwise be known to live.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open pidfd of %d: %w", pid, err)
	}
	return hold(pid, fd), nil
}

func hold(pid, fd int) *Process {
	return &Process{Pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
}

// Ended stands for a process whose end somebody else has seen.
func Ended(pid int) *Process {
	p := &Process{Pid: pid, done: make(chan struct{})}
	p.once.Do(func() { close(p.done) })
	return p
}

// Wait blocks until the process has exited, reaps it if it is our child, and closes the pidfd. It may be called by many;
// all get the same answer.
func (p *Process) Wait() Status {
	p.once.Do(func() {
		p.last = p.wait()
		p.fd.Close()
		close(p.done)
	})
	<-p.done
	return p.last
}

// Done is closed when Wait, which someone must be calling, has seen the end.
func (p *Process) Done() <-chan struct{} {
	return p.done
}

// Close lets go of a process that nobody waits for.
func (p *Process) Close() error {
	return p.fd.Close()
}

// GetFd duplicates a file descriptor of the process, close-on-exec (pidfd_getfd, Linux 5.6).
func (p *Process) GetFd(number int) (int, error) {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return -1, ErrGone
	}
	fd, getErr := -1, error(nil)
	if err := raw.Control(func(own uintptr) { fd, getErr = unix.PidfdGetfd(int(own), number, 0) }); err != nil {
		return -1, ErrGone
	}
	return fd, getErr
}

// Signal sends a signal. It returns ErrGone when the process has exited.
func (p *Process) Signal(sig unix.Signal) error {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return ErrGone
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return ErrGone // closed by Wait
	}
	if errors.Is(sendErr, unix.ESRCH) {
		return ErrGone
	}
	if sendErr != nil {
		return fmt.Errorf("signal %v to %d: %w", sig, p.Pid, sendErr)
	}
	return nil
}

func (p *Process) wait() Status {
	status := Status{Code: 255, Unknown: true}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return status
	}
	// Read parks this goroutine in the runtime's poller: a pidfd becomes readable when its process exits.
	err = raw.Read(func(fd uintptr) bool {
		var phase phase
		status, phase = collect(int(fd), p.Pid)
		if phase == unreaped {
			_ = p.fd.SetReadDeadline(time.Now().Add(reapGrace))
		}
		return phase == over
	})
	if err != nil {
		return Status{Code: 255, Unknown: true}
	}
	return status
}

// AwaitExit blocks until the process has exited, reaped or not: its files are closed then.
func (p *Process) AwaitExit() {
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
}

// reapGrace is how long we wait for a stranger to be reaped by its parent, which is when its code becomes known.
const reapGrace = 5 * time.Second

// phase of a process's end.
type phase int

const (
	alive phase = iota
	unreaped
	over
)

// collect reads the status of the process once it is over.
func collect(fd, pid int) (Status, phase) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
		return Status{}, alive
	}
	// Linux 6.15 keeps the code for holders of a pidfd, once the parent has reaped. It is asked first, because then the
	// number may be another process's already. While nobody has reaped it is still this one's.
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := getInfo(fd, &info); err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
		return FromWait(unix.WaitStatus(uint32(info.Exit_code))), over
	}
	var ws unix.WaitStatus
	got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
	switch {
	case err == nil && got == pid:
		return FromWait(ws), over
	case err == nil: // a ptracer has it; it will be ours
		return Status{}, alive
	}
	if poll[0].Revents&unix.POLLHUP == 0 && supportsInfo() {
		return Status{}, unreaped
	}
	return Status{Code: 255, Unknown: true}, over
}

// FromWait translates what wait4 reports.
func FromWait(ws unix.WaitStatus) Status {
	if ws.Signaled() {
		return Status{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return Status{Code: ws.ExitStatus()}
}

// StartTime is when the process started, in clock ticks since boot (proc(5), field 22 of stat). With the pid it names
// a process uniquely until the next boot.
func StartTime(pid int) (uint64, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Session is the session the process belongs to, and Parent its parent, as seen from here.
func Session(pid int) (session, parent int, err error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, 0, err
	}
	if parent, err = strconv.Atoi(fields[1]); err != nil {
		return 0, 0, err
	}
	session, err = strconv.Atoi(fields[3])
	return session, parent, err
}

// Zombie tells whether the process has exited and waits to be reaped.
func Zombie(pid int) bool {
	fields, err := stat(pid)
	return err == nil && fields[0] == "Z"
}

// stat returns the fields of /proc/pid/stat from the third one, the state, on. The second may hold anything.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return nil, fmt.Errorf("read /proc/%d/stat: no command", pid)
	}
	var fields []string
	for _, f := range bytes.Fields(text[end+1:]) {
		fields = append(fields, string(f))
	}
	if len(fields) < 20 {
		return nil, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields, nil
}
