//go:build root

package keeper_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

func TestOOM(t *testing.T) {
	n := start(t)
	limit := int64(16 << 20)
	s := n.spec("eater", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	n.create(n.request("eater", s))
	n.start("eater")
	if exit := n.wait("eater"); !exit.OOMKilled || exit.Code == 0 {
		t.Errorf("exit %+v, log %q", exit, n.log("eater"))
	}
	n.shell("modest", "kill -9 $$")
	n.start("modest")
	if exit := n.wait("modest"); exit.OOMKilled {
		t.Errorf("exit %+v", exit)
	}
}

func TestUpdate(t *testing.T) {
	n := start(t)
	s := n.spec("a", "sleep", "600")
	limit, shares := int64(64<<20), uint64(512)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares}
	n.create(n.request("a", s))
	n.start("a")
	more := int64(128 << 20)
	text, err := json.Marshal(specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &more}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.client.Update(n.ctx, keeper.Update{ID: "a", Resources: text}); err != nil {
		t.Fatal(err)
	}
	v2 := cgroup2(t)
	if got := n.cgroupFile("a", "memory", map[bool]string{false: "memory.limit_in_bytes", true: "memory.max"}[v2]); got != "134217728" {
		t.Errorf("memory limit %s", got)
	}
	if got := n.cgroupFile("a", "cpu", "cpu.shares"); !v2 && got != "512" {
		t.Errorf("cpu shares %s: changed by the update of another limit", got)
	}
	if _, out, _ := n.exec("a", "e", "echo", "fine"); out != "fine\n" {
		t.Errorf("exec after update: %q", out)
	}
}

// cgroup2 tells whether the unified hierarchy has the controllers.
func cgroup2(t testing.TB) bool {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		t.Fatal(err)
	}
	return st.Type == unix.CGROUP2_SUPER_MAGIC
}

func (n *node) cgroupFile(id, controller, file string) string {
	n.t.Helper()
	dir := "/sys/fs/cgroup"
	if !cgroup2(n.t) {
		dir = filepath.Join(dir, controller)
	}
	text, err := os.ReadFile(filepath.Join(dir, n.cgroup, id, file))
	if err != nil {
		if cgroup2(n.t) {
			return ""
		}
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestNamespacesJoinedByPath(t *testing.T) {
	n := start(t)
	dir := pinNamespaces(t)
	var links []string
	for _, id := range []string{"a", "b"} {
		s := n.spec(id, "sh", "-c", "hostname; readlink /proc/self/ns/net; sleep 600")
		for i, ns := range s.Linux.Namespaces {
			if p, ok := map[specs.LinuxNamespaceType]string{
				specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts",
			}[ns.Type]; ok {
				s.Linux.Namespaces[i].Path = filepath.Join(dir, p)
			}
		}
		n.create(n.request(id, s))
		n.start(id)
		until(t, "it speaks", func() bool { return strings.Contains(n.log(id), "net:") })
		pid := n.pidOf(id)
		if !strings.HasPrefix(n.log(id), "stdout from-the-pin\n") {
			t.Errorf("%s: log %q", id, n.log(id))
		}
		if link(pid, "pid") == link(n.pid, "pid") || link(pid, "mnt") == link(n.pid, "mnt") {
			t.Errorf("%s: PID or mount namespace is the keeper's", id)
		}
		links = append(links, link(pid, "net")+link(pid, "ipc")+link(pid, "uts"))
	}
	if links[0] != links[1] || strings.Contains(links[0], link(n.pid, "net")) {
		t.Errorf("namespaces %v, the keeper's %s", links, link(n.pid, "net"))
	}
}

// pinNamespaces makes net, IPC and UTS namespaces and binds them to files, in the caller's mount namespace.
func pinNamespaces(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
		if err == nil {
			err = unix.Sethostname([]byte("from-the-pin"))
		}
		for _, ns := range []string{"net", "ipc", "uts"} {
			path := filepath.Join(dir, ns)
			if err == nil {
				err = os.WriteFile(path, nil, 0o600)
			}
			if err == nil {
				err = unix.Mount("/proc/thread-self/ns/"+ns, path, "", unix.MS_BIND, "")
			}
		}
		done <- err
	}()
	t.Cleanup(func() {
		for _, ns := range []string{"net", "ipc", "uts"} {
			unix.Unmount(filepath.Join(dir, ns), unix.MNT_DETACH)
		}
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDeviceRules(t *testing.T) {
	n := start(t)
	const script = "mknod /tmp/kmsg c 1 11; (: </tmp/kmsg) && echo kmsg; (: </dev/zero) && echo zero"
	major, minor := int64(1), int64(11)
	for id, rules := range map[string][]specs.LinuxDeviceCgroup{
		"a": nil,
		"b": {{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}},
	} {
		s := n.spec(id, "sh", "-c", script)
		caps := []string{"CAP_MKNOD", "CAP_SYSLOG"}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, rules...)
		n.create(n.request(id, s))
		n.start(id)
		n.wait(id)
		got := n.log(id)
		if strings.Contains(got, "stdout kmsg") != (rules != nil) || !strings.Contains(got, "stdout zero") {
			t.Errorf("rules %v: log %q", rules, got)
		}
	}
}

// What the machine does not permit is clamped, and RLIMIT_NOFILE is always explicit.
func TestLimits(t *testing.T) {
	n := start(t)
	s := n.spec("a", "sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj")
	score := -998
	s.Process.OOMScoreAdj = &score
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1 << 62, Hard: 1 << 62}}
	n.create(n.request("a", s))
	n.start("a")
	if exit := n.wait("a"); exit.Code != 0 || n.log("a") == "" {
		t.Errorf("exit %+v, log %q", exit, n.log("a"))
	}
	t.Logf("%q", n.log("a"))
}

func TestSeccomp(t *testing.T) {
	n := start(t)
	s := n.spec("a", "sh", "-c", "hostname x; echo $?")
	s.Process.NoNewPrivileges = true
	errno := uint(unix.EPERM)
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActErrno, ErrnoRet: &errno}},
	}
	s.Process.Capabilities = nil
	n.create(n.request("a", s))
	n.start("a")
	n.wait("a")
	if got := n.log("a"); !strings.Contains(got, "not permitted") {
		t.Errorf("log %q", got)
	}
}

// Another OCI runtime, by its command line.
func TestForeignRuntime(t *testing.T) {
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("no runc on this machine to stand for a foreign runtime")
	}
	n := start(t)
	foreign := func(id string, args ...string) keeper.Create {
		req := n.request(id, n.spec(id, args...))
		req.Runtime = keeper.Runtime{Handler: "other", Path: path}
		req.Bundle = filepath.Join(n.dir, "bundle-"+id)
		if err := os.MkdirAll(req.Bundle, 0o700); err != nil {
			t.Fatal(err)
		}
		return req
	}
	n.create(foreign("a", "sh", "-c", "echo hello; trap 'exit 3' TERM; while :; do sleep 0.01; done"))
	n.start("a")
	until(t, "hello", func() bool { return strings.Contains(n.log("a"), "hello") })
	if exit, out, errs := n.exec("a", "e", "sh", "-c", "echo out; echo err >&2; exit 9"); exit.Code != 9 || out != "out\n" || errs != "err\n" {
		t.Errorf("exec %+v, %q, %q", exit, out, errs)
	}
	target := keeper.Target{ID: "a", ExecID: "tty"}
	_, master, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: ttyProcess(t, "sh", "-c", "stty size; exit 8"), TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	master.Close()
	if _, err := n.client.Wait(n.ctx, target); err != nil {
		t.Error(err)
	}
	n.kill("a", 15)
	if exit := n.wait("a"); exit.Code != 3 {
		t.Errorf("exit %+v", exit)
	}
	n.delete("a")
	_, err = n.client.Create(n.ctx, foreign("b", "/no/such"))
	if err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("no such program: %v", err)
	}
	req := foreign("c", "true")
	req.Runtime.Path = "/no/such/runtime"
	if _, err := n.client.Create(n.ctx, req); err == nil {
		t.Error("created with no runtime")
	}
}
