// Package launch starts a server in the background, stops it, and takes away what it made.
//
// Up is one list of steps: look at the machine, write what is missing, start, wait until everything is ready. What
// fails is said once, by the component's name, and what this call has started is torn down again; what ran before
// is left as it was.
package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/cmd/skiff/daemon"
	"github.com/skiff-node/skiff/cmd/skiff/preflight"
	"github.com/skiff-node/skiff/cmd/skiff/term"
)

// startLimit bounds the wait for a start. A machine that needs longer has a problem that its log names.
const startLimit = 3 * time.Minute

// EffectiveConfig is the file, in the run directory, that the running server was started with.
func EffectiveConfig(c config.Config) string { return filepath.Join(c.Dirs.Run, "server.yaml") }

// ServerLog is the log of the background server.
func ServerLog(c config.Config) string { return filepath.Join(c.Dirs.Log, "server.log") }

// Up starts the server unless it runs, and waits until it is ready. It reports whether it ran already.
func Up(ctx context.Context, c config.Config, p *term.Printer) (already bool, err error) {
	unlock, err := exclusive(c)
	if err != nil {
		return false, err
	}
	defer unlock()
	if r, err := daemon.AskStatus(ctx, c.Dirs.Run); err == nil && r.Ready {
		return true, nil
	} else if err == nil {
		return false, fmt.Errorf("a server (pid %d) is starting or failing: see `skiff status` and %s", r.Pid, ServerLog(c))
	}
	findings := preflight.Run(c)
	for _, f := range findings {
		if f.Problem != "" && f.Warning {
			p.Note("%s %s: %s", p.Paint(term.Yellow, "!"), f.Check, f.Problem)
		}
	}
	if err := preflight.Error(findings); err != nil {
		return false, err
	}
	fresh := !containersRun(c)
	if err := start(ctx, c, p); err != nil {
		if fresh {
			if derr := stopNode(context.WithoutCancel(ctx), c, term.New(os.Stderr)); derr != nil {
				err = fmt.Errorf("%w\ntearing down what had started also failed: %w", err, derr)
			}
		}
		return false, err
	}
	return false, nil
}

// exclusive keeps two commands from starting or stopping the same node at once.
func exclusive(c config.Config) (func(), error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("skiff needs root to make namespaces, mounts and links: run it with sudo")
	}
	if err := os.MkdirAll(c.Dirs.Run, 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(c.Dirs.Run, "up.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("wait for another skiff up or down: %w", err)
	}
	return func() { f.Close() }, nil
}

// containersRun says whether a keeper or CRI server of an earlier start is alive.
func containersRun(c config.Config) bool {
	for _, s := range []string{CRISocket(c), filepath.Join(c.Dirs.Run, "keeper", "keeper.sock")} {
		if _, err := daemon.PeerPid(s); err == nil {
			return true
		}
	}
	return false
}

// CRISocket is where the node's CRI server listens.
func CRISocket(c config.Config) string { return filepath.Join(c.Dirs.Run, "cri.sock") }

// start runs the server in its own session with a pipe for its progress, and relays that until it is ready.
func start(ctx context.Context, c config.Config, p *term.Printer) error {
	if err := c.Save(EffectiveConfig(c)); err != nil {
		return err
	}
	cmd, progress, err := spawn(c)
	if err != nil {
		return err
	}
	defer progress.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { progress.SetReadDeadline(time.Now()) })
	defer stop()
	err = relay(progress, p)
	if err == nil {
		return nil // the server lives on; it is nobody's child when this command ends
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("not ready after %v (log: %s)", startLimit, ServerLog(c))
	}
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		<-ended
	}
	return err
}

func spawn(c config.Config) (*exec.Cmd, *os.File, error) {
	if err := os.MkdirAll(c.Dirs.Log, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make the log directory: %w", err)
	}
	log, err := os.OpenFile(ServerLog(c), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer w.Close()
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(self, "server", "--config", EffectiveConfig(c), "--notify-fd", "3")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{w}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		r.Close()
		return nil, nil, fmt.Errorf("start the server: %w", err)
	}
	return cmd, r, nil
}

// relay prints each component that gets ready, until all are or one failed.
func relay(r *os.File, p *term.Printer) error {
	for s := bufio.NewScanner(r); s.Scan(); {
		var rep daemon.Report
		if err := json.Unmarshal(s.Bytes(), &rep); err != nil {
			return fmt.Errorf("read the server's progress %q: %w", s.Text(), err)
		}
		if rep.Error != "" {
			return errors.New(rep.Error)
		}
		if rep.Ready {
			return nil
		}
		for _, st := range rep.Components {
			if st.State == daemon.Ready || st.State == daemon.Failed {
				p.Step(st.State == daemon.Ready, st.Name, st.Detail)
			}
		}
	}
	return errors.New("the server ended without saying why (see its log)")
}

// terminate ends a process that may not be our child: SIGTERM, and SIGKILL when it has not gone in time.
func terminate(ctx context.Context, pid int, grace time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pid %s: %w", strconv.Itoa(pid), err)
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		sig  unix.Signal
		wait time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, 10 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, step.sig, nil, 0); err != nil {
			if errors.Is(err, unix.ESRCH) {
				return nil
			}
			return fmt.Errorf("signal pid %d: %w", pid, err)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for deadline := time.Now().Add(step.wait); time.Now().Before(deadline) && ctx.Err() == nil; {
			n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
			if n > 0 {
				return nil
			}
			if err != nil && err != unix.EINTR {
				return err
			}
		}
	}
	return fmt.Errorf("pid %d does not end", pid)
}
