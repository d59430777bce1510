// Package userns makes the user namespaces of pods, and tells whether the node can give them.
package userns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
	"github.com/skiff-node/skiff/runtimeservice/pause"
	"github.com/skiff-node/skiff/runtimeservice/rootfs"
)

// Holder is a process that sleeps in a user namespace of its own, and in other namespaces that this one owns. No thread
// of a process with several can make a user namespace or enter one (user_namespaces(7)), so it takes a process to have
// one. It is needed only until the namespaces are pinned.
type Holder struct {
	cmd *exec.Cmd
}

// Hold makes a user namespace with these mappings, and with it the namespaces of flags (CLONE_NEWNET, CLONE_NEWIPC,
// CLONE_NEWUTS). The caller closes the holder.
func Hold(uids, gids []runtimeservice.IDMapping, flags uintptr) (*Holder, error) {
	program, err := sleeper()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", program.Fd()))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | flags, Pdeathsig: unix.SIGKILL,
		UidMappings: sysMappings(uids), GidMappings: sysMappings(gids), GidMappingsEnableSetgroups: true,
	}
	// The holder dies with the thread that made it, should this process be killed; so the thread must live on.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return &Holder{cmd: cmd}, nil
}

// sleeper is the pause program in memory: users of the new namespace need not reach any path of this one.
func sleeper() (*os.File, error) {
	text, err := pause.Program(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	fd, err := unix.MemfdCreate("skiff-userns", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: memfd_create: %w", err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := os.WriteFile(path, text, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make a user namespace: %w", err), unix.Close(fd))
	}
	// A file that is open for writing cannot be executed.
	program, err := os.Open(path)
	return program, errors.Join(err, unix.Close(fd))
}

func sysMappings(in []runtimeservice.IDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range in {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Length)})
	}
	return out
}

// File is the file of one of the holder's namespaces: "user", "net", "ipc", "uts".
func (h *Holder) File(kind string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", h.cmd.Process.Pid, kind)
}

// Pin keeps one of the holder's namespaces alive at path. A leftover there is replaced; an empty path is not wanted.
func (h *Holder) Pin(kind, path string) error {
	if path == "" {
		return nil
	}
	if err := namespace.Unpin(path); err != nil {
		return err
	}
	return namespace.PinFile(kind, h.File(kind), path)
}

// Close ends the holder. What is pinned stays.
func (h *Holder) Close() error {
	err := h.cmd.Process.Kill()
	_ = h.cmd.Wait() // it ends by the signal
	return err
}

// Trial finds out once whether pods can have user namespaces, by making one.
type Trial struct {
	once sync.Once
	err  error
}

// Possible says why they cannot, or nil. places names the directory of the images' layers, and one to mount in.
func (t *Trial) Possible(places func() (layers, scratch string, err error)) error {
	t.once.Do(func() {
		layers, scratch, err := places()
		if err == nil {
			err = try(layers, scratch)
		}
		t.err = err
	})
	return t.err
}

func try(layers, scratch string) (err error) {
	ids := []runtimeservice.IDMapping{{HostID: 1 << 16, Length: 1 << 16}}
	holder, err := Hold(ids, ids, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, holder.Close()) }()
	dir, err := os.MkdirTemp(scratch, "try-userns-")
	if err != nil {
		return err
	}
	return errors.Join(rootfs.CanMap(layers, dir, holder.File("user")), os.Remove(dir))
}
