package entry

// #include "init.h"
import "C"

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// Container is what to compile: the configuration, its process as libcontainer gets it, and whether [Tree] is the tree of
// cgroups for a mount of them.
type Container struct {
	ID      string
	Config  *configs.Config
	Process *libcontainer.Process
	Tree    bool
	Unified bool // cgroup v2
}

// Compile writes the program of a container's first process. For one that wants something which only libcontainer's init
// does, it says what that is, and there is no program.
func Compile(c Container) (p *Program, why string) {
	w := &writer{Container: c, Program: &Program{}}
	if why = w.unusual(); why != "" {
		return nil, why
	}
	w.surroundings()
	if why = w.mounts(); why != "" {
		return nil, why
	}
	if why = w.dev(); why != "" {
		return nil, why
	}
	w.inside()
	w.process()
	if why = w.execute(); why != "" {
		return nil, why
	}
	if w.zero {
		return nil, "a zero byte"
	}
	return w.Program, ""
}

type writer struct {
	Container
	*Program
}

// unusual says what of the container's wishes is left to libcontainer, or "".
func (w *writer) unusual() string {
	c, p := w.Config, w.Process
	for _, not := range []struct {
		what string
		is   bool
	}{
		{"a terminal", p.ConsoleSocket != nil},
		{"extra files", len(p.ExtraFiles) > 0 || p.PidfdSocket != nil},
		{"hooks", hooked(c.Hooks)},
		{"seccomp", c.Seccomp != nil},
		{"AppArmor", c.AppArmorProfile != "" || p.AppArmorProfile != ""},
		{"SELinux", c.ProcessLabel != "" || p.Label != "" || c.MountLabel != ""},
		{"a user namespace", c.Namespaces.Contains(configs.NEWUSER) || c.RootlessEUID || c.RootlessCgroups},
		{"a time namespace", c.Namespaces.Contains(configs.NEWTIME)},
		{"another's PID namespace", c.Namespaces.PathOf(configs.NEWPID) != ""},
		{"no mount namespace of its own", !c.Namespaces.IsPrivate(configs.NEWNS) || c.NoPivotRoot},
		{"another's cgroup namespace", c.Namespaces.PathOf(configs.NEWCGROUP) != ""},
		{"network", slices.ContainsFunc(c.Networks, func(n *configs.Network) bool { return n.Type != "loopback" }) || len(c.Routes)+len(c.NetDevices) > 0},
		{"sysctls", len(c.Sysctl) > 0},
		{"a domain name", c.Domainname != ""},
		{"a parent death signal", c.ParentDeathSignal != 0},
		{"a shared root mount", c.RootPropagation&^(unix.MS_PRIVATE|unix.MS_SLAVE|unix.MS_REC) != 0},
		{"resctrl", c.IntelRdt != nil},
		{"a memory policy", c.MemoryPolicy != nil},
		{"a personality", c.Personality != nil},
		{"a scheduler", c.Scheduler != nil || p.Scheduler != nil},
		{"an I/O priority", c.IOPriority != nil || p.IOPriority != nil},
		{"no list of capabilities", c.Capabilities == nil && p.Capabilities == nil},
		{"a root that is no clean path", !clean(c.Rootfs) || c.Rootfs == "/"},
		{"many groups", len(p.AdditionalGroups) > 1024},
	} {
		if not.is {
			return not.what
		}
	}
	return ""
}

func hooked(h configs.Hooks) bool {
	for _, list := range h {
		if len(list) > 0 {
			return true
		}
	}
	return false
}

// clean tells whether a path is absolute, short, and has nothing in it that a look-up could be led astray with.
func clean(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && len(path) < 4000 && !strings.ContainsRune(path, 0)
}

// CloneFlags are the namespaces that the process is to be made in.
func (c Container) CloneFlags() uintptr {
	return c.Config.Namespaces.CloneFlags() &^ unix.CLONE_NEWCGROUP
}

// surroundings is all before the first mount.
func (w *writer) surroundings() {
	if s := w.Config.OomScoreAdj; s != nil {
		w.begin(C.OP_WRITE, "set oom_score_adj to %d", *s)
		w.text("/proc/self/oom_score_adj")
		w.text(strconv.Itoa(*s))
	}
	w.begin(C.OP_AFFINITY, "reset the affinity")
	for _, kind := range configs.NamespaceTypes() {
		if path := w.Config.Namespaces.PathOf(kind); path != "" {
			ns := configs.Namespace{Type: kind}
			w.begin(C.OP_SETNS, "join %s", path)
			w.text(path)
			w.u32(uint32(ns.Syscall()))
		}
	}
	if w.Config.Namespaces.Contains(configs.NEWCGROUP) {
		w.begin(C.OP_UNSHARE, "make a cgroup namespace") // here, where the process is in its cgroup
		w.u32(unix.CLONE_NEWCGROUP)
	}
	if !w.Config.NoNewKeyring {
		w.begin(C.OP_KEYRING, "make a session keyring")
		w.text("_ses." + w.ID)
		w.u32(0x80000) // search, for the user
	}
	if len(w.Config.Networks) > 0 {
		w.begin(C.OP_LOOPBACK, "set the loopback interface up")
	}
	propagation := w.Config.RootPropagation
	if propagation == 0 {
		propagation = unix.MS_SLAVE | unix.MS_REC
	}
	w.propagate("/", propagation)
	w.begin(C.OP_UNSHARED, "make the mount of %s private", w.Config.Rootfs)
	w.text(w.Config.Rootfs)
	if w.Config.RootPropagation&unix.MS_SLAVE != 0 {
		w.u32(unix.MS_SLAVE)
	} else {
		w.u32(unix.MS_PRIVATE)
	}
	w.begin(C.OP_ROOT, "bind %s to itself", w.Config.Rootfs)
	w.text(w.Config.Rootfs)
}

func (w *writer) propagate(path string, flags int) {
	w.begin(C.OP_PROPAGATE, "set propagation of %s", path)
	w.text(path)
	w.u32(uint32(flags))
}

// dev fills /dev, unless that is the host's.
func (w *writer) dev() string {
	if slices.ContainsFunc(w.Config.Mounts, func(m *configs.Mount) bool { return m.Device == "bind" && filepath.Clean(m.Destination) == "/dev" }) {
		return ""
	}
	kinds := map[config.Type]uint32{config.BlockDevice: unix.S_IFBLK, config.CharDevice: unix.S_IFCHR, config.FifoDevice: unix.S_IFIFO}
	for _, d := range w.Config.Devices {
		if d.Path == "" || filepath.Clean(d.Path) == "/dev/ptmx" {
			continue // only for the cgroup; and below
		}
		kind, known := kinds[d.Type]
		dev, err := d.Mkdev()
		if !known || err != nil || !clean(d.Path) || d.Path == "/" {
			return "an unusual device"
		}
		w.begin(C.OP_NODE, "make %s", d.Path)
		w.text(d.Path)
		w.u32(kind | uint32(d.FileMode)&0o7777)
		w.u64(dev)
		w.u32(d.Uid)
		w.u32(d.Gid)
	}
	w.link("pts/ptmx", "/dev/ptmx", 1, "")
	for _, l := range [][2]string{{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"}} {
		w.link(l[0], l[1], 0, "")
	}
	w.link("/proc/kcore", "/dev/core", 0, "/proc/kcore")
	return ""
}

func (w *writer) link(content, path string, replace uint32, ifExists string) {
	w.begin(C.OP_LINK, "link %s", path)
	w.text(content)
	w.text(path)
	w.u32(replace)
	w.text(ifExists)
}

// inside is what is done in the new root, before the process is made what it is to be.
func (w *writer) inside() {
	c := w.Config
	w.begin(C.OP_PIVOT, "enter the root")
	if !slices.ContainsFunc(c.Mounts, func(m *configs.Mount) bool { return m.Device == "bind" && filepath.Clean(m.Destination) == "/dev" }) {
		w.begin(C.OP_NULL, "open /dev/null")
	}
	if w.Process.Cwd != "" {
		w.begin(C.OP_MKDIRS, "make %s", w.Process.Cwd)
		w.text(w.Process.Cwd)
	}
	for _, m := range c.Mounts {
		if m.Flags&unix.MS_RDONLY != 0 && (m.Device == "tmpfs" || filepath.Clean(m.Destination) == "/dev") {
			w.remount(m.Destination, m.Flags)
		}
	}
	if c.Readonlyfs {
		w.remount("/", 0)
	}
	umask := uint32(0o022)
	if c.Umask != nil {
		umask = *c.Umask
	}
	w.begin(C.OP_UMASK, "set the umask")
	w.u32(umask)
	if c.Hostname != "" {
		w.begin(C.OP_HOSTNAME, "set the hostname")
		w.text(c.Hostname)
	}
	for _, path := range c.ReadonlyPaths {
		w.begin(C.OP_READONLY, "make %s read-only", path)
		w.text(path)
	}
	seen := map[string]bool{}
	for _, path := range c.MaskPaths {
		if key := filepath.Clean(path); !seen[key] {
			seen[key] = true
			w.begin(C.OP_MASK, "mask %s", path)
			w.text(path)
		}
	}
}

func (w *writer) remount(path string, flags int) {
	w.begin(C.OP_REMOUNT, "make %s read-only", path)
	w.text(path)
	w.u32(uint32(flags))
}

// process makes the process what it is to be.
func (w *writer) process() {
	c, p := w.Config, w.Process
	none := c.NoNewPrivileges
	if p.NoNewPrivileges != nil {
		none = *p.NoNewPrivileges
	}
	if none {
		w.begin(C.OP_NO_NEW_PRIVILEGES, "set no_new_privs")
	}
	w.begin(C.OP_READY, "tell that all is ready")
	limits := c.Rlimits
	if len(p.Rlimits) > 0 {
		limits = p.Rlimits
	}
	for _, l := range limits {
		w.begin(C.OP_RLIMIT, "set resource limit %d", l.Type)
		w.u32(uint32(l.Type))
		w.u64(l.Soft)
		w.u64(l.Hard)
	}
	if p.Cwd != "" {
		w.begin(C.OP_CHDIR, "change to %s", p.Cwd)
		w.text(p.Cwd)
	}
	if !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") && kv != "HOME=" }) {
		w.begin(C.OP_HOME, "look the user up")
		w.u32(uint32(p.UID))
	}
	caps := c.Capabilities
	if p.Capabilities != nil {
		caps = p.Capabilities
	}
	w.begin(C.OP_USER, "become user %d", p.UID)
	w.u32(uint32(p.UID))
	w.u32(uint32(p.GID))
	w.u32(uint32(len(p.AdditionalGroups)))
	for _, gid := range p.AdditionalGroups {
		w.u32(uint32(gid))
	}
	last, _ := capabilities()
	w.u32(uint32(last))
	for _, set := range [][]string{caps.Bounding, caps.Effective, caps.Permitted, caps.Inheritable, caps.Ambient} {
		w.u64(bits(set))
	}
}

// execute is the last step.
func (w *writer) execute() string {
	env, err := environment(w.Process.Env)
	if err != nil {
		return err.Error()
	}
	places, why := places(w.Process.Args[0], env)
	if why != "" {
		return why
	}
	w.begin(C.OP_EXEC, "find %s", w.Process.Args[0])
	w.u32(Fifo)
	w.texts(places)
	w.texts(w.Process.Args)
	w.texts(env)
	return ""
}

// places is where a program may be.
func places(name string, env []string) (list []string, why string) {
	if strings.Contains(name, "/") {
		return []string{name}, ""
	}
	path, set := "", false
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path, set = v, true
		}
	}
	if !set || name == "" {
		return nil, "no PATH"
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			return nil, "a PATH that is not absolute"
		}
		list = append(list, filepath.Join(dir, name))
	}
	return list, ""
}

// environment is what of it the program gets: the last of each name, in their order; HOME is found out when it is empty.
func environment(env []string) ([]string, error) {
	out, seen := make([]string, 0, len(env)), map[string]bool{}
	for _, kv := range slices.Backward(env) {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsRune(kv, 0) {
			return nil, fmt.Errorf("environment variable %q", kv)
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		if name != "HOME" || value != "" {
			out = append(out, kv)
		}
	}
	slices.Reverse(out)
	return out, nil
}
