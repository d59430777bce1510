package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// Checkpoint has CRIU write the container into the directory images. The container runs on. Pipes are the named pipes that
// it was given as streams, by descriptor; where they are by now is the program's affair.
func (n *Native) Checkpoint(_ context.Context, id, images string, pipes map[int]string) error {
	c, err := load(n.root, id)
	if err != nil {
		return fmt.Errorf("load container: %w", err)
	}
	if err := external(c, images, pipes); err != nil {
		return err
	}
	if err := c.Checkpoint(criu(images)); err != nil {
		return fmt.Errorf("criu: %w%s", err, complaints(filepath.Join(images, "dump.log")))
	}
	return os.Remove(filepath.Join(images, criuConf))
}

// criu are the options of both ways. Established connections are kept: the pod that is restored may have their address.
func criu(images string) *libcontainer.CriuOpts {
	return &libcontainer.CriuOpts{
		ImagesDirectory: images, WorkDirectory: images, LeaveRunning: true, TcpEstablished: true, FileLocks: true,
		ExternalUnixConnections: true, ManageCgroupsMode: "ignore", StatusFd: -1,
	}
}

// restored marks, in a container's state directory, one that runs since Create.
const restored = "restored"

// restore makes a container that continues from what Checkpoint has written: it runs at once.
func (n *Native) restore(req Create, c *libcontainer.Container, config *configs.Config, process *libcontainer.Process) (Created, error) {
	var console *consoleSocket
	if req.IO.TTY {
		var err error
		if console, err = newConsoleSocket(); err != nil {
			return Created{}, err
		}
		defer console.close()
		process.ConsoleSocket = console.child
	} else {
		setStreams(process, req.IO)
	}
	if err := os.WriteFile(filepath.Join(n.root, req.ID, restored), nil, 0o600); err != nil {
		return Created{}, errors.Join(fmt.Errorf("restore: %w", err), c.Destroy())
	}
	if err := inherit(c, req.Restore); err != nil {
		return Created{}, errors.Join(err, c.Destroy())
	}
	if err := n.continueFrom(c, process, config, req.Restore); err != nil {
		return Created{}, errors.Join(fmt.Errorf("restore: criu: %w%s", err, complaints(filepath.Join(req.Restore, "restore.log"))), c.Destroy())
	}
	pid, err := process.Pid()
	if err != nil {
		return Created{}, errors.Join(fmt.Errorf("restore: %w", err), n.Sweep(req.ID))
	}
	state, err := c.State()
	if err != nil {
		return Created{}, errors.Join(fmt.Errorf("restore: %w", err), n.Sweep(req.ID))
	}
	out := Created{Pid: pid, Cgroups: state.CgroupPaths, SharedPid: !config.Namespaces.IsPrivate(configs.NEWPID)}
	if console != nil {
		out.Console, err = console.receive()
	}
	return out, err
}

// continueFrom has CRIU make the processes, in a time that is enough for the size of the images: CRIU reads damaged ones for
// ever. It runs in the container's cgroup, and dies with all that it has made.
func (n *Native) continueFrom(c *libcontainer.Container, process *libcontainer.Process, config *configs.Config, images string) error {
	limit, err := patience(images)
	if err != nil {
		return err
	}
	killed := make(chan error, 1)
	timer := time.AfterFunc(limit, func() { killed <- killAll(config.Cgroups) })
	err = c.Restore(process, criu(images))
	if timer.Stop() || err == nil {
		return err
	}
	return fmt.Errorf("not done after %s, killed: %w", limit, errors.Join(err, <-killed))
}

// patience is half a minute, and a second for what the slowest of disks reads in one. It ends before the caller's.
func patience(images string) (time.Duration, error) {
	const base, most, perSecond = 30 * time.Second, 210 * time.Second, 16 << 20
	entries, err := os.ReadDir(images)
	if err != nil {
		return 0, err
	}
	var size int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return 0, err
		}
		size += info.Size()
	}
	return min(most, base+time.Duration(size/perSecond)*time.Second), nil
}

// wasRestored says that the container runs already.
func (n *Native) wasRestored(id string) bool {
	_, err := os.Lstat(filepath.Join(n.root, id, restored))
	return err == nil
}

// complaints is the errors in CRIU's log, of which the last say most.
func complaints(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if _, complaint, found := strings.Cut(line, "Error "); found {
			lines = append(lines, strings.TrimSpace(complaint))
		}
	}
	if len(lines) == 0 {
		return ""
	}
	return ": " + strings.Join(lines[max(0, len(lines)-5):], "; ")
}
