package entry

// #include "init.h"
import "C"

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// mounts writes all mounts below the root. A process file system comes first: what is mounted later cannot get into it
// then without being seen.
func (w *writer) mounts() (why string) {
	for i, m := range w.Config.Mounts {
		if why := refuse(i, m); why != "" {
			return why
		}
		switch {
		case m.Device == "cgroup" && w.Tree:
			w.begin(C.OP_ATTACH, "mount cgroups at %s", m.Destination)
			w.u32(Tree)
			w.text(m.Destination)
		case m.Device == "cgroup" && !w.Unified:
			return "cgroup v1 that could not be prepared"
		case m.Device == "bind":
			w.bind(m)
		default:
			w.mount(m)
		}
	}
	return ""
}

// refuse says what about a mount is left to libcontainer.
func refuse(i int, m *configs.Mount) string {
	dest := m.Destination
	switch {
	case !clean(dest) || dest == "/":
		return "a mount at an unclean path"
	case (m.Device == "proc") != (dest == "/proc") || (m.Device == "proc") != (i == 0) || strings.HasPrefix(dest, "/proc/"):
		return "a mount in /proc, or not first there"
	case m.IsIDMapped() || m.Extensions != 0:
		return "a mapped mount, or a copied one"
	case dest == "/dev" && m.Device != "tmpfs":
		return "a /dev that is no tmpfs"
	case m.Device == "sysfs" && dest != "/sys":
		return "a sysfs elsewhere"
	case m.Device == "bind" && !filepath.IsAbs(m.Source):
		return "a relative source"
	case m.Device != "bind" && m.RecAttr != nil:
		return "recursive attributes of a new mount"
	}
	for _, flags := range m.PropagationFlags {
		if m.Device != "bind" && flags&(unix.MS_SHARED|unix.MS_UNBINDABLE) != 0 {
			return "propagation of a new mount"
		}
	}
	return ""
}

// mount writes one of a new file system. It is private, its parent being so, hence also no slave.
func (w *writer) mount(m *configs.Mount) {
	device, how, flags := m.Device, uint32(0), m.Flags
	switch device {
	case "tmpfs":
		how, flags = C.HOW_MODE, flags&^unix.MS_RDONLY // it is filled first
	case "proc", "sysfs":
		how = C.HOW_PLAIN
	case "cgroup":
		device = "cgroup2"
	}
	w.begin(C.OP_MOUNT, "mount %s at %s", device, m.Destination)
	w.text(m.Source)
	w.text(m.Destination)
	w.text(device)
	w.u32(uint32(flags))
	w.text(m.Data)
	w.u32(how)
}

// setting is one mount_setattr.
type setting struct {
	at   uint32 // AT_RECURSIVE
	attr unix.MountAttr
}

// bind writes a bind mount: its settings are made before anybody can see it.
func (w *writer) bind(m *configs.Mount) {
	recursive := uint32(0)
	if m.Flags&unix.MS_REC != 0 {
		recursive = 1
	}
	list := settings(m)
	w.begin(C.OP_BIND, "mount %s at %s", m.Source, m.Destination)
	w.text(m.Source)
	w.text(m.Destination)
	w.u32(recursive)
	w.u32(uint32(len(list)))
	for _, s := range list {
		w.u32(s.at)
		w.u64(s.attr.Attr_set)
		w.u64(s.attr.Attr_clr)
		w.u64(s.attr.Propagation)
	}
}

// settings is what is changed of the copy of a mount.
func settings(m *configs.Mount) []setting {
	var list []setting
	for _, flags := range m.PropagationFlags {
		s := setting{attr: unix.MountAttr{Propagation: uint64(flags &^ unix.MS_REC)}}
		if flags&unix.MS_REC != 0 {
			s.at = unix.AT_RECURSIVE
		}
		list = append(list, s)
	}
	if m.Flags&^(unix.MS_BIND|unix.MS_REC|unix.MS_REMOUNT) != 0 || m.ClearedFlags != 0 {
		list = append(list, setting{attr: attributes(m.Flags)})
	}
	if m.RecAttr != nil {
		list = append(list, setting{unix.AT_RECURSIVE, *m.RecAttr})
	}
	return list
}

// attributes are what a remount with the flags of mount(2) makes of a mount's: those that are not asked for are cleared,
// but access times are left as they are when nothing is said of them.
func attributes(flags int) unix.MountAttr {
	var attr unix.MountAttr
	for flag, bit := range map[int]uint64{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.MS_NODEV: unix.MOUNT_ATTR_NODEV,
		unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC, unix.MS_NOSYMFOLLOW: unix.MOUNT_ATTR_NOSYMFOLLOW,
	} {
		if flags&flag != 0 {
			attr.Attr_set |= bit
		} else {
			attr.Attr_clr |= bit
		}
	}
	const times = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
	if flags&times == 0 {
		return attr
	}
	attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
	switch { // as mount(2) understands several at once
	case flags&unix.MS_STRICTATIME != 0:
		attr.Attr_set |= unix.MOUNT_ATTR_STRICTATIME
	case flags&unix.MS_NOATIME != 0:
		attr.Attr_set |= unix.MOUNT_ATTR_NOATIME
	}
	if flags&unix.MS_NODIRATIME != 0 {
		attr.Attr_set |= unix.MOUNT_ATTR_NODIRATIME
	} else {
		attr.Attr_clr |= unix.MOUNT_ATTR_NODIRATIME
	}
	return attr
}
