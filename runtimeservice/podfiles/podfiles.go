// Package podfiles makes the files that all containers of a pod share: resolv.conf, hostname, hosts and /dev/shm.
package podfiles

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Hostname is the node's own for a pod on the host's network, or one that asks for none.
func Hostname(c runtimeservice.SandboxConfig) string {
	name, err := os.Hostname()
	if err == nil && (c.Hostname == "" || c.Security.Namespaces.Network == runtimeservice.NamespaceNode) {
		return name
	}
	return c.Hostname
}

// shmSize is the size of /dev/shm in bytes, the same everywhere.
const shmSize = 64 << 20

// MountShm mounts the shared memory of a sandbox.
func MountShm(path string) error {
	if err := os.MkdirAll(path, 0o711); err != nil {
		return err
	}
	const flags = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("shm", path, "tmpfs", flags, fmt.Sprintf("mode=1777,size=%d", shmSize)); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", path, err)
	}
	return nil
}

// Write writes resolv.conf, hostname and hosts, which containers see unless a volume covers them.
func Write(dir string, c runtimeservice.SandboxConfig) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	resolv, err := resolvConf(c.DNS)
	if err != nil {
		return err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for name, text := range map[string][]byte{"resolv.conf": resolv, "hostname": []byte(Hostname(c) + "\n"), "hosts": hosts} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func resolvConf(d *runtimeservice.DNS) ([]byte, error) {
	if d == nil || len(d.Servers)+len(d.Searches)+len(d.Options) == 0 {
		text, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return text, err
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, server := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return []byte(b.String()), nil
}
