package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/cmd/skiff/daemon"
	"github.com/skiff-node/skiff/cmd/skiff/term"
	"github.com/skiff-node/skiff/kubelet"
	"github.com/skiff-node/skiff/proxy"
)

// step is one named part of stopping. Every step succeeds on what is gone already, so `skiff down` can be repeated
// after any failure or kill.
type step struct {
	name   string
	guards bool // a failure keeps purge from removing files
	run    func(context.Context, config.Config) error
}

// Down stops the node and everything on it. With purge it also removes every file that skiff made.
func Down(ctx context.Context, c config.Config, purge bool, p *term.Printer) error {
	unlock, err := exclusive(c)
	if err != nil {
		return err
	}
	defer unlock()
	err = stopNode(ctx, c, p)
	if !purge || errors.Is(err, errUnsafe) {
		return err
	}
	if ferr := removeFiles(c); ferr != nil {
		return errors.Join(err, fmt.Errorf("remove files: %w", ferr))
	}
	p.Step(true, "files", "removed")
	return err
}

// errUnsafe marks the failure of a step after which files may still be in use or have something mounted on them: nothing is
// removed then.
var errUnsafe = errors.New("files are kept")

// stopNode runs every step, also after one failed, and returns all errors.
func stopNode(ctx context.Context, c config.Config, p *term.Printer) error {
	var errs []error
	for _, s := range []step{
		{"server", true, stopServer},
		{"pods", true, stopPods},
		{"proxy rules", false, removeProxyRules},
		{"mounts", true, unmountAll},
		{"cgroups", false, removeCgroups},
	} {
		err := s.run(ctx, c)
		if err != nil && s.guards {
			err = fmt.Errorf("%w (%w)", err, errUnsafe)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
			p.Step(false, s.name, err.Error())
			continue
		}
		p.Step(true, s.name, "stopped")
	}
	return errors.Join(errs...)
}

func removeProxyRules(context.Context, config.Config) error { return proxy.Cleanup() }

func stopServer(ctx context.Context, c config.Config) error {
	pid, err := daemon.PeerPid(daemon.StatusSocket(c.Dirs.Run))
	if err != nil {
		return nil // no server listens
	}
	return terminate(ctx, pid, 20*time.Second)
}

// stopPods lets the CRI server's own binary end what it made: containers, sandboxes, network, keeper.
func stopPods(ctx context.Context, c config.Config) error {
	if pid, err := daemon.PeerPid(CRISocket(c)); err == nil {
		if err := terminate(ctx, pid, 20*time.Second); err != nil {
			return err
		}
	}
	cfg := config.CRIFile(c)
	if _, err := os.Stat(cfg); errors.Is(err, fs.ErrNotExist) {
		return nil // never started
	}
	argv, err := config.CRICommand(c, "purge")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmountAll detaches whatever is mounted below skiff's directories, the deepest first.
func unmountAll(_ context.Context, c config.Config) error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !below(m.Mountpoint, c.Dirs.Run) && !below(m.Mountpoint, c.Dirs.State), false
	})
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}

// below says whether path lies strictly below dir: a mount on the directory itself is the machine's own.
func below(path, dir string) bool { return strings.HasPrefix(path, dir+"/") }

// removeCgroups removes the trees of pods and of skiff's processes from every hierarchy.
func removeCgroups(_ context.Context, c config.Config) error {
	const root = "/sys/fs/cgroup"
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	hierarchies := []string{root}
	for _, e := range entries {
		if e.IsDir() {
			hierarchies = append(hierarchies, filepath.Join(root, e.Name()))
		}
	}
	var errs []error
	for _, h := range hierarchies {
		if _, err := os.Stat(filepath.Join(h, "cgroup.procs")); err != nil {
			continue
		}
		for _, tree := range []string{"kubepods", "skiff"} {
			errs = append(errs, rmdirTree(filepath.Join(h, c.CgroupRoot, tree)))
		}
	}
	return errors.Join(errs...)
}

// rmdirTree removes a cgroup and those below it. One that still holds this very command (it was moved there by hand)
// or a zombie is retried for a moment: the kernel lets go of a dead process's cgroup after it was reaped.
func rmdirTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := rmdirBusy(d); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
	}
	return nil
}

func rmdirBusy(dir string) error {
	for deadline := time.Now().Add(5 * time.Second); ; {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond) // the kernel has no event for an emptied v1 cgroup
	}
}

// removeFiles removes the directories of skiff, the logs of its pods, and the files elsewhere that bear its mark.
func removeFiles(c config.Config) error {
	var errs []error
	errs = append(errs, removeLinks(c), removeDevicePlugins(kubelet.DevicePluginDir))
	for _, dir := range []string{c.Dirs.Run, c.Dirs.State, c.Dirs.Log, c.Dirs.Config, c.Dirs.Pods} {
		errs = append(errs, removeTree(dir))
	}
	for _, f := range config.Elsewhere(c) {
		errs = append(errs, config.RemoveManaged(f))
	}
	return errors.Join(errs...)
}

// removeDevicePlugins removes the kubelet's place for device plugins, and what is above it if nothing else is there. One that
// another kubelet serves stays.
func removeDevicePlugins(dir string) error {
	if conn, err := net.Dial("unix", filepath.Join(dir, "kubelet.sock")); err == nil {
		conn.Close()
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // fails when there is more in it
	return nil
}

// removeTree removes a directory; one that is a mount point of the machine stays, empty.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if mounted, merr := mountinfo.Mounted(dir); merr == nil && mounted {
		left, rerr := os.ReadDir(dir)
		if rerr == nil && len(left) == 0 {
			return nil
		}
	}
	return err
}

// removeLinks removes the links to skiff's container logs from the machine's /var/log/containers, and that directory when
// skiff has made it.
func removeLinks(c config.Config) error {
	dir := config.LinksDir(c)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(path); err == nil && below(to, c.Dirs.Pods) {
			os.Remove(path)
		}
	}
	if _, err := os.Stat(config.LinksDirStamp(c)); err != nil {
		return nil
	}
	os.Remove(dir) // fails, as it should, when others have links there
	return nil
}
