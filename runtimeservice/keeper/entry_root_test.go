//go:build root

package keeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// portrait prints all that a program can see of how it was started.
const portrait = `
exec 2>&1
echo "== status"; grep -E '^(Umask|Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap|SigIgn|SigBlk|Threads|Cpus_allowed_list)' /proc/self/status
echo "== mounts"; sort -k5,5 -s /proc/self/mountinfo
echo "== dev"; ls -ln /dev /dev/pts | grep -v ^total
echo "== environment"; env
echo "== limits"; cat /proc/self/limits
echo "== cgroup"; cat /proc/self/cgroup
echo "== namespaces"; for n in net ipc uts pid cgroup user; do echo $n $(readlink /proc/self/ns/$n); done
echo "== streams"; for f in 0 1 2; do echo $f $(readlink /proc/1/fd/$f); done; ls /proc/self/fd
echo "== identity"; id; pwd; hostname; cat /proc/self/oom_score_adj; cat /proc/self/sessionid; cat /proc/1/cmdline | tr '\0' ' '; echo
echo "== session"; cut -d' ' -f4-8 /proc/1/stat; cat /proc/keys | grep -o 'perm.*_ses.it.*' || cut -d' ' -f3- /proc/keys | grep -o '[0-9a-f]* *[0-9]* *[0-9]* keyring *_ses.it.*'
echo "== hidden"; ls -A /proc/acpi /proc/scsi /sys/firmware /hidden 2>&1; wc -c < /proc/kcore; echo x > /proc/sys/kernel/domainname; echo x > /proc/sysrq-trigger
echo "== files"; find / -xdev | sort | xargs ls -lnd | awk '{print $1, $3, $4, $NF}'
echo "== written"; for d in /data /data/inner /ro /ro/inner /etc/hosts / /new/dir /linked; do echo x > $d/probe && echo $d is writable && rm $d/probe; done; cat /etc/hosts /new/dir/file
true`

// TestEitherInitMakesTheSame makes containers with libcontainer's init, which an empty hook makes them need, and without,
// and compares what their programs see. The order of mounts is not compared: a tree that was attached as a whole is older.
func TestEitherInitMakesTheSame(t *testing.T) {
	for name, change := range map[string]func(*node, *specs.Spec){
		"small": func(*node, *specs.Spec) {},
		"pod's": podLike,
		"user": func(n *node, s *specs.Spec) {
			podLike(n, s)
			s.Process.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{7, 8}}
		},
		"privileged":     privileged,
		"host's PIDs":    func(_ *node, s *specs.Spec) { s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace) },
		"missing places": missing,
		"recursive": func(n *node, s *specs.Spec) {
			podLike(n, s)
			s.Mounts[len(s.Mounts)-2].Options = []string{"rbind", "rro", "rslave"}
		},
		"hostname": func(_ *node, s *specs.Spec) { s.Hostname = "boat" },
		"root's slave": func(n *node, s *specs.Spec) {
			podLike(n, s)
			s.Linux.RootfsPropagation = "rslave"
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t)
			n.makeSources()
			short, long := n.portrait("short", change), n.portrait("long", func(n *node, s *specs.Spec) {
				change(n, s)
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
			})
			if short != long {
				t.Errorf("they differ:\n%s", difference(short, long))
			}
			if len(short) < 2000 || strings.Contains(short, "not found") {
				t.Errorf("not much of a portrait:\n%s", short)
			}
		})
	}
}

// makeSources makes what podLike mounts, beside a second file system below it, and a root of this test alone.
func (n *node) makeSources() {
	n.t.Helper()
	inner := filepath.Join(n.dir, "volume", "inner")
	for _, dir := range []string{inner, filepath.Join(n.dir, "root")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", unix.MS_NOSUID, "size=1m"); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { unix.Unmount(inner, unix.MNT_DETACH) })
	if err := os.WriteFile(filepath.Join(n.dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// podLike is what the CRI server asks for.
func podLike(n *node, s *specs.Spec) {
	s.Process.Env = append(s.Process.Env, "A=1", "B=2", "A=3", "HOME=")
	s.Process.Cwd = "/made/for/work"
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Hard: 0, Soft: 0}}
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: filepath.Join(n.dir, "hosts"), Options: []string{"rbind", "rprivate", "rw"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: filepath.Join(n.dir, "volume"), Options: []string{"rbind", "rslave", "ro", "noexec"}},
		specs.Mount{Destination: "/data", Type: "bind", Source: filepath.Join(n.dir, "volume"), Options: []string{"bind", "private", "nodev", "noatime"}},
	)
	s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/kcore", "/proc/scsi", "/sys/firmware", "/nowhere", "/proc/scsi/", "/tmp"}
	s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/nowhere"}
	s.Process.NoNewPrivileges = true
	s.Root.Readonly = false
}

func privileged(n *node, s *specs.Spec) {
	podLike(n, s)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths, s.Process.NoNewPrivileges = nil, nil, false
	all := []string{"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_KILL", "CAP_UNHEARD_OF"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all, Inheritable: all[:3], Ambient: all[:2]}
	mode, uid, gid := os.FileMode(0o640), uint32(5), uint32(6)
	s.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode, UID: &uid, GID: &gid},
		{Path: "/dev/loop9", Type: "b", Major: 7, Minor: 9},
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
}

// missing has targets that the image lacks, some behind its links.
func missing(n *node, s *specs.Spec) {
	podLike(n, s)
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/new/dir/file", Type: "bind", Source: filepath.Join(n.dir, "hosts"), Options: []string{"bind"}},
		specs.Mount{Destination: "/linked/deep", Type: "bind", Source: filepath.Join(n.dir, "volume"), Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/up/dir", Type: "bind", Source: filepath.Join(n.dir, "volume"), Options: []string{"rbind"}},
		specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "ro"}},
	)
}

func without(list []specs.LinuxNamespace, kind specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var out []specs.LinuxNamespace
	for _, ns := range list {
		if ns.Type != kind {
			out = append(out, ns)
		}
	}
	return out
}

// portrait is what a container that was made the short or the long way prints.
func (n *node) portrait(way string, change func(*node, *specs.Spec)) string {
	n.t.Helper()
	spec := n.spec("it", "sh", "-c", portrait)
	root := filepath.Join(n.dir, "root", way)
	if err := makeRootfs(root); err != nil {
		n.t.Fatal(err)
	}
	for _, applet := range []string{"grep", "env", "pwd", "cut", "rm", "find", "sort", "xargs", "awk", "tr"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			n.t.Fatal(err)
		}
	}
	passwd := "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1000::/home/user:/bin/sh\n"
	err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644)
	if err == nil {
		err = os.Symlink("/etc/beyond", filepath.Join(root, "linked"))
	}
	if err == nil {
		err = os.Symlink("../../../tmp", filepath.Join(root, "up"))
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(root, "etc/beyond"), 0o700)
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(root, "scratch"), 0o1777)
	}
	if err == nil {
		err = os.Chmod(filepath.Join(root, "scratch"), 0o1777|os.ModeSticky)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	spec.Root.Path = root
	change(n, spec)
	init := n.create(n.request("it", spec))
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", init.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	if short := string(comm) == "skiff:init\n"; short != (way == "short") {
		n.t.Errorf("the %s way has an init named %q", way, comm)
	}
	n.start("it")
	n.wait("it")
	text := normal(n.log("it"))
	n.delete("it")
	if err := os.Remove(n.logPath("it")); err != nil {
		n.t.Fatal(err)
	}
	return strings.ReplaceAll(text, root, "ROOT")
}

// normal takes out what differs between any two containers: numbers of mounts, of namespaces, of pipes.
func normal(text string) string {
	for _, r := range [][2]string{
		{`(?m)^(stdout|stderr) \d+ \d+ \d+:\d+ `, "$1 "},
		{`(master|shared|propagate_from):\d+`, "$1"},
		{`(net|ipc|uts|pid|cgroup|user|mnt|pipe|socket):\[\d+\]`, "$1"},
		{`[A-Z][a-z]{2} [ \d]\d \d\d:\d\d`, "then"},
		{`Max (processes|pending signals).*`, "$1"},
		{`…\nstdout `, ""},                       // a line in two writes
		{`/skk[0-9]+/root/(short|long)`, "ROOT"}, // the root's place in its file system
	} {
		text = regexp.MustCompile(r[0]).ReplaceAllString(text, r[1])
	}
	return text
}

// difference is the first line that differs, with the heading it is under, and what follows it in both.
func difference(a, b string) string {
	left, right, heading := strings.Split(a, "\n"), strings.Split(b, "\n"), ""
	for i := range min(len(left), len(right)) {
		if strings.Contains(left[i], " == ") {
			heading = left[i]
		}
		if left[i] != right[i] {
			some := func(list []string) string { return strings.Join(list[i:min(i+8, len(list))], "\n") }
			return fmt.Sprintf("%s\nshort:\n%s\nlong:\n%s", heading, some(left), some(right))
		}
	}
	return fmt.Sprintf("one has %d lines, one %d", len(left), len(right))
}

// TestHostileImage mounts at places that an image's links lead astray: what libcontainer refuses is refused in its words.
func TestHostileImage(t *testing.T) {
	n := start(t)
	n.makeSources()
	for name, tc := range map[string]struct{ link, target, want string }{
		"into proc":       {"/proc", "/evil/sys", "inside /proc"},
		"onto proc":       {"/proc", "/evil", "not of type proc"},
		"onto the root":   {"/", "/evil", "on the top of rootfs"},
		"out by proc":     {"/proc/self/root/../../..", "/evil/tmp", ""},
		"out by parents":  {"../../../../../tmp", "/evil/probe", "nothing"},
		"to itself":       {"evil", "/evil/x", "too many levels of symbolic links"},
		"to a file":       {"/etc/passwd", "/evil/x", "not a directory"},
		"through nothing": {"/not/there", "/evil", "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(n.dir, "root", strings.ReplaceAll(name, " ", "-"))
			if err := makeRootfs(root); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "etc/passwd"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(tc.link, filepath.Join(root, "evil")); err != nil {
				t.Fatal(err)
			}
			spec := n.spec("it", "true")
			spec.Root.Path = root
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: tc.target, Type: "bind", Source: filepath.Join(n.dir, "volume"), Options: []string{"rbind"}})
			text := "nothing"
			if _, err := n.client.Create(n.ctx, n.request("it", spec)); err != nil {
				text = err.Error()
			} else {
				n.start("it")
				n.wait("it")
				n.delete("it")
			}
			if !strings.Contains(text, tc.want) {
				t.Errorf("libcontainer says %q, want %q", text, tc.want)
			}
		})
	}
	if _, err := os.Stat("/tmp/probe"); err == nil {
		t.Error("a mount point was made on the host")
	}
}

// TestCommandThatCannotBeExecuted: what can be known at the creation is told there, the rest in the log.
func TestCommandThatCannotBeExecuted(t *testing.T) {
	n := start(t)
	root := filepath.Join(n.dir, "root")
	if err := makeRootfs(root); err != nil {
		t.Fatal(err)
	}
	for file, mode := range map[string]os.FileMode{"bin/garbage": 0o755, "bin/plain": 0o644, "bin/only-root": 0o700} {
		if err := os.WriteFile(filepath.Join(root, file), []byte("garbage"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for command, want := range map[string]string{
		"missing":        `"missing": executable file not found in $PATH`,
		"/bin/missing":   `"/bin/missing": stat /bin/missing: no such file or directory`,
		"plain":          `"plain": executable file not found in $PATH`,
		"/bin/only-root": `"/bin/only-root": permission denied`,
		"/bin":           `"/bin": is a directory`,
		"/bin/garbage":   "",
	} {
		spec := n.spec("it", command)
		spec.Root.Path, spec.Process.User.UID = root, 1000
		_, err := n.client.Create(n.ctx, n.request("it", spec))
		if err == nil && want == "" {
			n.start("it")
			exit := n.wait("it")
			if text := n.log("it"); exit.Code != 255 || text != "stderr exec /bin/garbage: exec format error\n" {
				t.Errorf("%s: %+v, %s", command, exit, text)
			}
			n.delete("it")
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || want == "" {
			t.Errorf("%s: %v, want %s", command, err, want)
		}
	}
}
