package entry

import (
	"encoding/binary"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// plain is a container that needs nothing unusual.
func plain() Container {
	none := true
	return Container{
		ID: "it", Unified: true,
		Config: &configs.Config{
			Rootfs: "/run/rootfs",
			Namespaces: configs.Namespaces{
				{Type: configs.NEWNS}, {Type: configs.NEWPID}, {Type: configs.NEWCGROUP}, {Type: configs.NEWNET, Path: "/run/netns/x"},
			},
			Mounts: []*configs.Mount{
				{Device: "proc", Source: "proc", Destination: "/proc"},
				{Device: "tmpfs", Source: "tmpfs", Destination: "/dev", Flags: unix.MS_NOSUID},
				{Device: "bind", Source: "/volume", Destination: "/data", Flags: unix.MS_BIND | unix.MS_REC | unix.MS_RDONLY},
				{Device: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Flags: unix.MS_RDONLY},
			},
			Devices: []*config.Device{{Path: "/dev/null", Rule: config.Rule{Type: 'c', Major: 1, Minor: 3}, FileMode: 0o666}},
		},
		Process: &libcontainer.Process{
			Args: []string{"sh"}, Env: []string{"PATH=/bin:/sbin"}, Cwd: "/", NoNewPrivileges: &none,
			Capabilities: &configs.Capabilities{Bounding: []string{"CAP_KILL"}},
		},
	}
}

func TestUnusualIsLeftToLibcontainer(t *testing.T) {
	if _, why := Compile(plain()); why != "" {
		t.Fatalf("a plain container: %s", why)
	}
	bind := func(source, dest string) *configs.Mount {
		return &configs.Mount{Device: "bind", Source: source, Destination: dest, Flags: unix.MS_BIND}
	}
	add := func(m *configs.Mount) func(Container) {
		return func(c Container) { c.Config.Mounts = append(c.Config.Mounts, m) }
	}
	for what, change := range map[string]func(Container){
		"a terminal":           func(c Container) { c.Process.ConsoleSocket = os.Stdin },
		"extra files":          func(c Container) { c.Process.ExtraFiles = []*os.File{os.Stdin} },
		"hooks":                func(c Container) { c.Config.Hooks = configs.Hooks{configs.Poststop: make(configs.HookList, 1)} },
		"AppArmor":             func(c Container) { c.Process.AppArmorProfile = "x" },
		"SELinux":              func(c Container) { c.Config.MountLabel = "x" },
		"a user namespace":     func(c Container) { c.Config.Namespaces.Add(configs.NEWUSER, "") },
		"a time namespace":     func(c Container) { c.Config.Namespaces.Add(configs.NEWTIME, "") },
		"another's PID":        func(c Container) { c.Config.Namespaces.Add(configs.NEWPID, "/proc/1/ns/pid") },
		"no mount namespace":   func(c Container) { c.Config.Namespaces.Remove(configs.NEWNS) },
		"network":              func(c Container) { c.Config.Networks = []*configs.Network{{Type: "veth"}} },
		"sysctls":              func(c Container) { c.Config.Sysctl = map[string]string{"a": "b"} },
		"a domain name":        func(c Container) { c.Config.Domainname = "x" },
		"a shared root mount":  func(c Container) { c.Config.RootPropagation = unix.MS_SHARED | unix.MS_REC },
		"resctrl":              func(c Container) { c.Config.IntelRdt = &configs.IntelRdt{} },
		"a memory policy":      func(c Container) { c.Config.MemoryPolicy = &configs.LinuxMemoryPolicy{} },
		"a personality":        func(c Container) { c.Config.Personality = &configs.LinuxPersonality{} },
		"a scheduler":          func(c Container) { c.Process.Scheduler = &specs.Scheduler{} },
		"an I/O priority":      func(c Container) { c.Process.IOPriority = &specs.LinuxIOPriority{} },
		"no list of cap":       func(c Container) { c.Process.Capabilities = nil },
		"no clean path":        func(c Container) { c.Config.Rootfs = "/run/../rootfs" },
		"many groups":          func(c Container) { c.Process.AdditionalGroups = make([]int, 1025) },
		"a mount in /proc":     add(bind("/x", "/proc/cpuinfo")),
		"not first there":      func(c Container) { slices.Reverse(c.Config.Mounts) },
		"an unclean path":      add(bind("/x", "/a/../b")),
		"an unclean path,":     add(bind("/x", "/")),
		"a mapped mount":       add(&configs.Mount{Device: "tmpfs", Destination: "/x", Extensions: configs.EXT_COPYUP}),
		"a /dev that is no":    func(c Container) { c.Config.Mounts[1] = bind("/dev", "/dev") },
		"a sysfs elsewhere":    add(&configs.Mount{Device: "sysfs", Destination: "/x"}),
		"a relative source":    add(bind("x", "/y")),
		"recursive attributes": add(&configs.Mount{Device: "tmpfs", Destination: "/x", RecAttr: &unix.MountAttr{}}),
		"propagation of a new": add(&configs.Mount{Device: "tmpfs", Destination: "/x", PropagationFlags: []int{unix.MS_SHARED}}),
		"an unusual device":    func(c Container) { c.Config.Devices[0].Type = 'x' },
		"no PATH":              func(c Container) { c.Process.Env = nil },
		"a PATH that is not":   func(c Container) { c.Process.Env = []string{"PATH=/bin:"} },
		"environment variable": func(c Container) { c.Process.Env = append(c.Process.Env, "x") },
		"a zero byte":          func(c Container) { c.Process.Args = []string{"/x", "a\x00b"} },
		"a zero byte,":         func(c Container) { c.Process.Cwd = "/x\x00y" },
	} {
		c := plain()
		change(c)
		if p, why := Compile(c); p != nil || !strings.Contains(why, strings.TrimSuffix(what, ",")) {
			t.Errorf("%s: said to be %q", what, why)
		}
	}
	c := plain()
	c.Unified = false
	if _, why := Compile(c); !strings.Contains(why, "cgroup v1") {
		t.Errorf("cgroup v1 without a tree: %q", why)
	}
}

func TestProgramIsWhole(t *testing.T) {
	p, why := Compile(plain())
	if why != "" {
		t.Fatal(why)
	}
	if sent := p.bytes(); int(binary.NativeEndian.Uint32(sent)) != len(sent)-4 || !slices.Equal(sent[4:], p.code) {
		t.Errorf("%d bytes are sent of %d", len(sent), len(p.code))
	}
	text := strings.Join(p.steps, "\n")
	var last int
	for _, step := range []string{"join /run/netns/x", "make a cgroup namespace", "bind /run/rootfs to itself", "mount proc at /proc", "mount /volume at /data",
		"mount cgroup2", "make /dev/null", "enter the root", "set no_new_privs", "tell that all is ready", "become user 0", "find sh"} {
		at := strings.Index(text, step)
		if at < last {
			t.Errorf("%q is not where it should be in\n%s", step, text)
		}
		last = at
	}
	if err := p.err(answer{At: 2, Errno: int32(unix.EPERM)}); err.Error() != p.steps[2]+": operation not permitted" {
		t.Error(err)
	}
	if err := p.err(answer{At: 1 << 30, Errno: int32(unix.EPERM)}); !strings.HasPrefix(err.Error(), "unknown step") {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	got, err := environment([]string{"A=1", "HOME=", "B=", "A=2", "C==x"})
	if want := []string{"B=", "A=2", "C==x"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"A", "=x", "A=\x00", ""} {
		if _, err := environment([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestPlaces(t *testing.T) {
	for name, want := range map[string][]string{"sh": {"/a/sh", "/b/sh"}, "./sh": {"./sh"}, "/x/sh": {"/x/sh"}} {
		if got, why := places(name, []string{"PATH=/a:/b"}); why != "" || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %s", name, got, why)
		}
	}
	if _, why := places("", []string{"PATH=/a"}); why == "" {
		t.Error("an empty command was taken")
	}
}

func TestSettings(t *testing.T) {
	const rest = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	readOnly := setting{attr: unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Attr_clr: rest}}
	all := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	for name, tc := range map[string]struct {
		mount configs.Mount
		want  []setting
	}{
		"bind":      {configs.Mount{Flags: unix.MS_BIND | unix.MS_REC}, nil},
		"read-only": {configs.Mount{Flags: unix.MS_BIND | unix.MS_RDONLY}, []setting{readOnly}},
		"slave": {configs.Mount{Flags: unix.MS_BIND, PropagationFlags: []int{unix.MS_SLAVE | unix.MS_REC}},
			[]setting{{unix.AT_RECURSIVE, unix.MountAttr{Propagation: unix.MS_SLAVE}}}},
		"writable": {configs.Mount{Flags: unix.MS_BIND, ClearedFlags: unix.MS_RDONLY},
			[]setting{{attr: unix.MountAttr{Attr_clr: rest | unix.MOUNT_ATTR_RDONLY}}}},
		"recursively": {configs.Mount{Flags: unix.MS_BIND, RecAttr: all}, []setting{{unix.AT_RECURSIVE, *all}}},
	} {
		if got := settings(&tc.mount); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for name, tc := range map[string]struct {
		flags      int
		set, clear uint64
	}{
		"left":       {unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY, rest},
		"noatime":    {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME, rest | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME},
		"nodiratime": {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME, rest | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR__ATIME},
		"strict wins": {unix.MS_NOATIME | unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME,
			rest | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME},
	} {
		if got := attributes(tc.flags); got != (unix.MountAttr{Attr_set: tc.set, Attr_clr: tc.clear}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestCapabilities(t *testing.T) {
	if got := bits([]string{"CAP_CHOWN", "CAP_KILL", "CAP_OF_WOOL"}); got != 1<<unix.CAP_CHOWN|1<<unix.CAP_KILL {
		t.Errorf("%x", got)
	}
	if last, byName := capabilities(); int(last) < unix.CAP_AUDIT_READ || byName["CAP_SYS_ADMIN"] != unix.CAP_SYS_ADMIN {
		t.Errorf("last is %d, CAP_SYS_ADMIN %d", last, byName["CAP_SYS_ADMIN"])
	}
}

// FuzzCompile: whatever is asked for, there is a program or a reason.
func FuzzCompile(f *testing.F) {
	f.Add("/data", "/volume", "PATH=/bin", "sh", "/")
	f.Add("/proc/x", "", "HOME=", "/bin/sh", "../..")
	f.Fuzz(func(t *testing.T, dest, source, env, arg, cwd string) {
		c := plain()
		c.Config.Mounts = append(c.Config.Mounts, &configs.Mount{Device: "bind", Source: source, Destination: dest, Flags: unix.MS_BIND})
		c.Process.Env = append(c.Process.Env, env)
		c.Process.Args = append([]string{arg}, arg)
		c.Process.Cwd = cwd
		p, why := Compile(c)
		if (p == nil) == (why == "") {
			t.Fatalf("%v, %q", p, why)
		}
		if p != nil && (strings.HasPrefix(dest+"/", "/proc/") || !clean(dest)) {
			t.Errorf("mount at %q", dest)
		}
	})
}
