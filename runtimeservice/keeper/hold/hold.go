// Package hold keeps file descriptors alive when the process that uses them dies. A terminal hangs up, an open stdin ends,
// and what is in a pipe is gone, with the last process that has it open.
//
// Files are put, each with a name, into the queue of a socket pair, where the kernel keeps them as messages that nobody has
// received yet. The queue lives as long as a process has the pair open: besides the keeper that is the holder, which does
// nothing at all, being the pause program executed with the pair as descriptors 3 and 4. The next keeper gets the pair out
// of the holder with pidfd_getfd(2), without the holder's help. So the files survive the death of the keeper, of the CRI
// server, and of both at once, for the price of one process of a page or two.
//
//	keeper ──put──► [ name, files │ name, files │ … ] ◄──drop── keeper: peeks, puts again at the end what shall stay,
//	                            queue                                   then receives, so that nothing is ever missing
package hold

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/pause"
)

const (
	program  = "skiff-hold" // name of the holder's executable, which exists in memory only
	first    = 3            // descriptor of the pair's first end in the holder
	maxFiles = 4            // of one name
	maxName  = 300
	slack    = 16       // how many dead entries are tolerated beside as many as live
	capacity = 64 << 20 // bytes of the queue; the kernel accounts about one KiB for an entry
)

// Store holds files by name.
type Store struct {
	dir     string // where the holder is written down, and how its processes are told from another Store's
	in, out int    // the pair: entries are sent at in, and wait at out
	holder  *proc.Process

	mu    sync.Mutex
	live  map[string]uint64 // the number of each name's entry: a name may be held again while its first entry waits still
	last  uint64
	total int // entries in the queue, dead ones included
}

// Open finds the store that an earlier keeper has made in the directory, or makes one.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir, in: -1, out: -1, live: map[string]uint64{}}
	if err := s.find(); err == nil {
		return s, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	s.in, s.out = pair[0], pair[1]
	// Without CAP_NET_ADMIN the queue is as long as others permit, some hundred entries.
	_ = unix.SetsockoptInt(s.in, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, capacity)
	if err := s.start(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ref names a holder. A process with the number and another start time is a stranger.
type ref struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
}

func (s *Store) refPath() string { return filepath.Join(s.dir, "holder") }

// find takes the pair from the living holder that is written down.
func (s *Store) find() error {
	text, err := os.ReadFile(s.refPath())
	if err != nil {
		return err
	}
	var r ref
	if err := json.Unmarshal(text, &r); err != nil {
		return err
	}
	p, err := proc.Open(r.Pid)
	if err != nil {
		return err
	}
	if start, err := proc.StartTime(r.Pid); err != nil || start != r.StartTime || proc.Zombie(r.Pid) {
		p.Close()
		return proc.ErrGone
	}
	s.holder = p
	if s.in, err = p.GetFd(first); err == nil {
		s.out, err = p.GetFd(first + 1)
	}
	if err != nil {
		return fmt.Errorf("take files from holder %d: %w", r.Pid, err)
	}
	return nil
}

// start starts a holder of the pair and writes it down. Those that were started and not written down are ended.
func (s *Store) start() error {
	if err := s.sweep(); err != nil {
		return err
	}
	exe, err := executable()
	if err != nil {
		return err
	}
	defer exe.Close()
	in, out := os.NewFile(uintptr(s.in), "in"), os.NewFile(uintptr(s.out), "out")
	cmd := exec.Command("/proc/self/fd/" + strconv.Itoa(first+2))
	cmd.Args, cmd.Env, cmd.Dir = []string{program, s.dir}, []string{}, "/"
	cmd.ExtraFiles = []*os.File{in, out, exe}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	s.in, s.out = disown(in), disown(out)
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release()
	if s.holder, err = proc.Open(pid); err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	start, err := proc.StartTime(pid)
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	text, err := json.Marshal(ref{pid, start})
	if err != nil {
		return err
	}
	temp := s.refPath() + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("write holder down: %w", err)
	}
	return os.Rename(temp, s.refPath())
}

// executable is the pause program in memory.
func executable() (*os.File, error) {
	text, err := pause.Program(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate(program, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // MFD_EXEC is of Linux 6.3
		fd, err = unix.MemfdCreate(program, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("make memfd: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, text); err != nil {
		return nil, fmt.Errorf("write memfd: %w", err)
	}
	// A file that is open for writing cannot be executed.
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}

// sweep ends all holders of this store's directory.
func (s *Store) sweep() error {
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return err
	}
	for _, path := range paths {
		if exe, err := os.Readlink(path); err != nil || exe != "/memfd:"+program+" (deleted)" {
			continue
		}
		dir := filepath.Dir(path)
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		p, err := proc.Open(pid)
		if err != nil {
			continue
		}
		if args, _ := os.ReadFile(filepath.Join(dir, "cmdline")); string(args) == program+"\x00"+s.dir+"\x00" {
			end(p)
		} else {
			p.Close()
		}
	}
	return nil
}

// end kills a holder. Its parent reaps it, which we may be.
func end(p *proc.Process) {
	_ = p.Signal(unix.SIGKILL)
	p.AwaitExit()
	go p.Wait()
}

// Holder is the number of the process that holds the files.
func (s *Store) Holder() int { return s.holder.Pid }

// Close lets go of this process's share: the holder holds on.
func (s *Store) Close() {
	if s.holder != nil {
		s.holder.Close()
	}
	for _, fd := range []int{s.in, s.out} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	s.in, s.out = -1, -1
}

// Release ends the holder: all files are let go.
func (s *Store) Release() {
	end(s.holder)
	_ = os.Remove(s.refPath())
	for _, fd := range []int{s.in, s.out} {
		unix.Close(fd)
	}
	s.in, s.out = -1, -1
}

// disown takes the descriptor out of an os.File, which would close it.
func disown(f *os.File) int {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, first)
	if err != nil {
		return -1
	}
	return fd
}
