//go:build root

package keeper_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// The binary under test and a busybox root file system, made once.
var binary, rootfs string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "skiff-keeper-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if binary = os.Getenv("SKIFF_KEEPER"); binary == "" { // or the build to be measured
			binary = filepath.Join(dir, "skiff-keeper")
			build := exec.Command("go", "build", "-tags", "seccomp,netgo,osusergo", "-ldflags", "-s -w", "-o", binary, "github.com/skiff-node/skiff/cmd/skiff-keeper")
			if out, err := build.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
				return 1
			}
		}
		rootfs = filepath.Join(dir, "rootfs")
		if err := makeRootfs(rootfs); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go reap(ctx)
		return m.Run()
	}())
}

// reap makes this process the parent of a killed keeper's containers, as a CRI server is. Those that it started itself it
// waits for elsewhere.
func reap(ctx context.Context) {
	none := func(int) bool { return false }
	orphan := func(pid int) bool {
		name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		return err == nil && string(name) != keeper.ProcessName+"\n" && string(name) != "go\n"
	}
	if err := proc.ReapOrphans(ctx, none, orphan); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("the tests need Debian's busybox-static: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), box, 0o755); err != nil {
		return err
	}
	for _, applet := range []string{"sh", "echo", "cat", "sleep", "true", "false", "stty", "head", "tail", "kill", "id", "mknod", "hostname", "readlink", "seq", "trap", "ls", "dd", "setsid", "wc"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", applet)); err != nil {
			return err
		}
	}
	return nil
}

func random() string {
	b := make([]byte, 6)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// node is a keeper of this test alone.
type node struct {
	t      testing.TB
	ctx    context.Context
	dir    string
	run    string
	cgroup string
	client *keeper.Client
	pid    int
}

func start(t testing.TB) *node {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skk") // a tmpfs, as /run is
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	n := &node{t: t, ctx: ctx, dir: dir, run: filepath.Join(dir, "run"), cgroup: "/skiff-test-" + random()}
	t.Cleanup(func() { cancel(); n.sweep() })
	n.launch()
	return n
}

// launch starts a keeper or finds the living one.
func (n *node) launch() {
	n.t.Helper()
	c, err := keeper.Launch(n.ctx, keeper.LaunchConfig{
		Binary: binary, RunDir: n.run, LogFile: filepath.Join(n.dir, "log"), CgroupParent: n.cgroup,
	})
	if err != nil {
		n.t.Fatal(err)
	}
	hello, err := c.Hello(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	n.client, n.pid = c, hello.Pid
}

// sweep removes all that the test made, whatever state it is in.
func (n *node) sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if list, err := n.client.List(ctx); err == nil {
		for _, c := range list.Containers {
			_ = n.client.Kill(ctx, keeper.Kill{Target: keeper.Target{ID: c.ID}, Signal: 9, All: true})
			_, _ = n.client.Wait(ctx, keeper.Target{ID: c.ID})
			if err := n.client.Delete(ctx, c.ID); err != nil {
				n.t.Errorf("sweep: %v", err)
			}
		}
	}
	if err := n.client.Shutdown(ctx); err != nil {
		n.t.Errorf("sweep: %v", err)
		unix.Kill(n.pid, unix.SIGKILL)
	}
	n.client.Close()
	until(n.t, "the keeper is gone", func() bool { return unix.Kill(n.pid, 0) != nil })
	if left := n.holders(); len(left) > 0 {
		n.t.Errorf("a holder is left: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(n.run, "containers", "*")); len(left) > 0 {
		n.t.Errorf("left behind: %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(n.run, "runc", "*")); len(left) > 0 {
		n.t.Errorf("left behind: %v", left)
	}
	if text, _ := os.ReadFile(filepath.Join(n.dir, "log")); len(text) > 0 {
		n.t.Logf("log of the keeper:\n%s", text)
	}
	n.removeCgroups()
	os.RemoveAll(n.dir)
}

func (n *node) removeCgroups() {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	dirs = append(dirs, "/sys/fs/cgroup"+n.cgroup)
	for _, d := range dirs {
		os.Remove(filepath.Join(d, "keeper"))
		if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
			n.t.Errorf("left behind: %v", err)
		}
	}
}

// until polls a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// spec is a small but whole specification: what a test changes, it changes after.
func (n *node) spec(id string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/bin"}, Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: []string{"CAP_KILL", "CAP_MKNOD"}, Effective: []string{"CAP_KILL", "CAP_MKNOD"}, Permitted: []string{"CAP_KILL", "CAP_MKNOD"},
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.cgroup + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

func (n *node) logPath(id string) string {
	return filepath.Join(n.dir, "logs", id+".log")
}

// request is a Create with a log.
func (n *node) request(id string, spec *specs.Spec) keeper.Create {
	n.t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	return keeper.Create{ID: id, Spec: text, LogPath: n.logPath(id)}
}

// shell creates a container that runs a script.
func (n *node) shell(id, script string) {
	n.t.Helper()
	n.create(n.request(id, n.spec(id, "sh", "-c", script)))
}

func (n *node) create(req keeper.Create) keeper.Started {
	n.t.Helper()
	got, err := n.client.Create(n.ctx, req)
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

func (n *node) start(id string) {
	n.t.Helper()
	if _, err := n.client.Start(n.ctx, id); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) wait(id string) keeper.Exit {
	n.t.Helper()
	exit, err := n.client.Wait(n.ctx, keeper.Target{ID: id})
	if err != nil {
		n.t.Fatal(err)
	}
	return exit
}

func (n *node) kill(id string, signal int) {
	n.t.Helper()
	if err := n.client.Kill(n.ctx, keeper.Kill{Target: keeper.Target{ID: id}, Signal: signal}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) delete(id string) {
	n.t.Helper()
	if err := n.client.Delete(n.ctx, id); err != nil {
		n.t.Fatal(err)
	}
}

// run creates and starts a container, waits for it and returns its log.
func (n *node) runToEnd(id, script string) (keeper.Exit, string) {
	n.t.Helper()
	n.shell(id, script)
	n.start(id)
	exit := n.wait(id)
	return exit, n.log(id)
}

// entries is the log, parsed.
func (n *node) entries(path string) []logs.Entry {
	n.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	var out []logs.Entry
	for line := range bytes.Lines(text) {
		e, err := logs.Parse(line)
		if err != nil {
			n.t.Fatalf("%s: %v: %q", path, err, line)
		}
		out = append(out, e)
	}
	return out
}

// log is the log as the container wrote it, with each line's stream before it.
func (n *node) log(id string) string {
	n.t.Helper()
	return flatten(n.entries(n.logPath(id)))
}

func flatten(entries []logs.Entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%s %s", e.Stream, e.Content)
		if e.Partial {
			b.WriteString("…")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// process is an OCI process for an exec.
func process(t testing.TB, args ...string) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(specs.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/"})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// ttyProcess is one with a terminal.
func ttyProcess(t testing.TB, args ...string) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(specs.Process{Terminal: true, Args: args, Env: []string{"PATH=/bin"}, Cwd: "/"})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (n *node) pidOf(id string) int {
	n.t.Helper()
	list, err := n.client.List(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range list.Containers {
		if c.ID == id {
			return c.Pid
		}
	}
	n.t.Fatalf("no container %s", id)
	return 0
}

func link(pid int, ns string) string {
	s, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + ns)
	return s
}

func itoa(i int) string { return strconv.Itoa(i) }

// killKeeper ends the keeper as the kernel or an operator might.
func (n *node) killKeeper() {
	n.t.Helper()
	if err := unix.Kill(n.pid, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	n.client.Close()
	until(n.t, "the keeper is gone", func() bool { return unix.Kill(n.pid, 0) != nil })
}
