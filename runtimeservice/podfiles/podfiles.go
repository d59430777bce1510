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

// MountShm mounts the shared memory of a sandbox. It belongs to the root of the pod's user namespace.
func MountShm(path string, ns runtimeservice.Namespaces) error {
	if err := os.MkdirAll(path, 0o711); err != nil {
		return err
	}
	const flags = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	uid, gid := owner(ns)
	options := fmt.Sprintf("mode=1777,size=%d,uid=%d,gid=%d", shmSize, uid, gid)
	if err := unix.Mount("shm", path, "tmpfs", flags, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", path, err)
	}
	return nil
}

// owner is the root of the pod on the host.
func owner(ns runtimeservice.Namespaces) (uid, gid int) {
	if !ns.UserPod {
		return 0, 0
	}
	user, _ := runtimeservice.HostID(ns.UIDs, 0) // the mapping has been checked to hold id 0
	group, _ := runtimeservice.HostID(ns.GIDs, 0)
	return int(user), int(group)
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
	uid, gid := owner(c.Security.Namespaces)
	for name, text := range map[string][]byte{"resolv.conf": resolv, "hostname": []byte(Hostname(c) + "\n"), "hosts": hosts} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		if uid == 0 && gid == 0 {
			continue
		}
		if err := os.Chown(path, uid, gid); err != nil {
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
