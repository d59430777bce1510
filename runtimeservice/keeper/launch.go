package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LaunchConfig says how to start a keeper.
type LaunchConfig struct {
	Binary       string // required: path of skiff-keeper
	RunDir       string // required: the keeper's run directory, on tmpfs
	LogFile      string // its log, appended to; "" discards
	CgroupParent string // it moves to <CgroupParent>/keeper in each hierarchy; "" leaves it in the caller's cgroups
}

// adoptTimeout bounds how long a socket that answers may take to greet.
const adoptTimeout = 5 * time.Second

// ErrNone says that no keeper lives in the run directory.
var ErrNone = errors.New("no keeper is running")

// Adopt connects to a living keeper. ErrNone when there is none.
func Adopt(ctx context.Context, runDir string) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	c, err := Dial(ctx, filepath.Join(runDir, SocketName))
	// A connection that breaks before the greeting was made to a keeper that has just been killed.
	for _, none := range []error{os.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF} {
		if errors.Is(err, none) {
			return nil, fmt.Errorf("%w: %w", ErrNone, err)
		}
	}
	return c, err
}

// Launch connects to the keeper of the run directory, and starts one where none lives. The keeper outlives the caller:
// it has a session and a cgroup of its own. The caller should be a child subreaper, or an exit of the keeper goes unseen.
func Launch(ctx context.Context, cfg LaunchConfig) (*Client, error) {
	if cfg.Binary == "" || !filepath.IsAbs(cfg.RunDir) {
		return nil, fmt.Errorf("launch keeper: Binary must be set and RunDir %q absolute", cfg.RunDir)
	}
	c, err := Adopt(ctx, cfg.RunDir)
	if err == nil {
		return c, nil
	}
	if !errors.Is(err, ErrNone) {
		return nil, fmt.Errorf("a keeper is there, but: %w", err)
	}
	if err := spawn(ctx, cfg); err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	return Adopt(ctx, cfg.RunDir)
}

// Stale tells whether the living keeper is another build than the binary: their contents differ.
func Stale(ctx context.Context, c *Client, binary string) (bool, error) {
	hello, err := c.Hello(ctx)
	if err != nil {
		return false, fmt.Errorf("compare keeper with %s: %w", binary, err)
	}
	same, err := sameContent(fmt.Sprintf("/proc/%d/exe", hello.Pid), binary)
	if err != nil {
		return false, fmt.Errorf("compare keeper with %s: %w", binary, err)
	}
	return !same, nil
}

func sameContent(a, b string) (bool, error) {
	var files [2]*os.File
	var sizes [2]int64
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return false, err
		}
		files[i], sizes[i] = f, info.Size()
	}
	if sizes[0] != sizes[1] {
		return false, nil
	}
	var chunks [2][1 << 16]byte
	for {
		n, err := io.ReadFull(files[0], chunks[0][:])
		m, otherErr := io.ReadFull(files[1], chunks[1][:])
		if !bytes.Equal(chunks[0][:n], chunks[1][:m]) {
			return false, nil
		}
		if err != nil || otherErr != nil { // both are at their end
			return n == m, nil
		}
	}
}

// ProcessName is the keeper's name, and that of the memfd it is executed from.
const ProcessName = "skiff-keeper"

// Ready is the file descriptor on which a launched keeper says "ok", or why it cannot start, before it closes it.
const Ready = 3

// spawn starts the process and waits until it listens.
func spawn(ctx context.Context, cfg LaunchConfig) error {
	binary, err := seal(cfg.Binary)
	if err != nil {
		return err
	}
	defer binary.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer theirs.Close()
	cmd := exec.Command("/proc/self/fd/4", "-run-dir", cfg.RunDir, "-log", cfg.LogFile, "-ready-fd", strconv.Itoa(Ready))
	if cfg.CgroupParent != "" {
		cmd.Args = append(cmd.Args, "-cgroup", filepath.Join(cfg.CgroupParent, "keeper"))
	}
	cmd.Args[0] = ProcessName
	cmd.Dir = "/"
	// The binary as an inherited descriptor: the number that Go's exec gives it in the child is the one we name.
	cmd.ExtraFiles = []*os.File{theirs, binary}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// Nobody waits for it here: it outlives us, and while we live, Release would leave a zombie behind its death.
	go func() { _ = cmd.Wait() }()
	theirs.Close()
	stop := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(ready)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if text := strings.TrimSpace(string(said)); text != "ok" {
		return fmt.Errorf("it did not become ready: %s (log: %s)", text, cfg.LogFile)
	}
	return nil
}

// seal copies the binary into one sealed memfd. libcontainer executes it as each container's init; as nobody can write
// to it any more, it need not be copied again for each.
func seal(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	fd, err := unix.MemfdCreate(ProcessName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // MFD_EXEC is of Linux 6.3
		fd, err = unix.MemfdCreate(ProcessName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("make memfd: %w", err)
	}
	mem := os.NewFile(uintptr(fd), ProcessName)
	if _, err := io.Copy(mem, src); err != nil {
		mem.Close()
		return nil, fmt.Errorf("copy %s to memory: %w", path, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(mem.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		mem.Close()
		return nil, fmt.Errorf("seal copy of %s: %w", path, err)
	}
	return mem, nil
}

// MoveToCgroup puts this process into a cgroup of each hierarchy, so that it is not accounted to, nor killed with, its
// parent's. The keeper calls it first of all, before it has children. It is best effort: a hierarchy that refuses is left as it is.
func MoveToCgroup(path string) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 || !strings.HasPrefix(after, "cgroup") {
			continue
		}
		dir := filepath.Join(fields[4], path)
		if os.MkdirAll(dir, 0o755) == nil {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		}
	}
}
