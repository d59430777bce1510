// Package harness makes simulated hosts for tests: each has its own network, mount and UTS namespace, its own /etc,
// /run and /var, and its own cgroup parent. No host has a route to the real outside: its only wire leads to a second
// namespace, the outside world of the test.
//
// A host is a process that holds the namespaces, and commands that enter them. Cleaning up kills what runs below the
// host's cgroup and in its namespaces, by pid, removes its cgroups and directory, and then looks whether anything is
// left: a leak fails the test.
package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TB is what a host needs of a test. *testing.T has it, and so may a program that is no test.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Host is one simulated machine.
type Host struct {
	Name       string // host name
	IP         string // address on the wire; the outside world is OutsideIP
	Dir        string // holds everything the host writes
	CgroupRoot string // its cgroup parent, as a path from the root of each hierarchy
	BinDir     string // the built binaries

	t       TB
	holder  *exec.Cmd
	outside *exec.Cmd
}

// OutsideIP is the address of the outside world on a host's wire.
const OutsideIP = "192.168.77.1"

// setup turns fresh namespaces into a host: $1 is its directory, $2 its name. /etc, /var, /opt and /root are the
// machine's, covered by an overlay that takes what is written; /run is empty; /var/lib/skiff is a real directory,
// because one overlay cannot be the upper layer of another. A node that the machine itself runs is hidden.
const setup = `set -e
mount --make-rprivate /
for d in etc var opt root; do
  mkdir -p "$1/$d/upper" "$1/$d/work"
  mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d/upper,workdir=$1/$d/work" "/$d"
done
rm -rf /etc/skiff /etc/crictl.yaml /etc/cni /var/log/skiff /var/log/pods /var/log/containers /var/lib/skiff /root/.kube
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$1/state" /var/lib/skiff
mount --bind "$1/state" /var/lib/skiff
hostname "$2"
ip link set lo up
`

// NewHost makes a host that goes with the test.
func NewHost(t TB) *Host {
	t.Helper()
	id := make([]byte, 3)
	rand.Read(id)
	name := hex.EncodeToString(id)
	h := &Host{t: t, Name: "boat-" + name, IP: "192.168.77.2", CgroupRoot: "/skiff-test-" + name, BinDir: binDir(t)}
	dir, err := os.MkdirTemp("", "skiff-host-")
	if err != nil {
		t.Fatal(err)
	}
	h.Dir = dir
	t.Cleanup(h.close)
	h.holder = hold(t, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWUTS)
	h.outside = hold(t, syscall.CLONE_NEWNET)
	h.MustRun("sh", "-c", setup, "setup", dir, h.Name)
	h.wire()
	return h
}

func binDir(t TB) string {
	dir := os.Getenv("SKIFF_BIN")
	if dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(wd, "..", "..", "bin")
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "skiff*")); len(found) == 0 {
		t.Fatalf("no binaries in %s: run make build, or set SKIFF_BIN", dir)
	}
	return dir
}

// hold starts a process that keeps namespaces alive until it is killed.
func hold(t TB, flags uintptr) *exec.Cmd {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatalf("make the host's namespaces: %v", err)
	}
	return cmd
}

// wire joins host and outside by a veth pair.
func (h *Host) wire() {
	h.MustRun("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(h.outside.Process.Pid))
	if out, err := h.Outside("sh", "-c", fmt.Sprintf("ip link set lo up && ip addr add %s/24 dev eth0 && ip link set eth0 up", OutsideIP)); err != nil {
		h.t.Fatalf("wire the outside: %v: %s", err, out)
	}
	// Without IPv6, whose link-local addresses and routes come a moment later, an inventory stands still.
	h.MustRun("sh", "-c", fmt.Sprintf("echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6 && ip addr add %s/24 dev eth0 && ip link set eth0 up && ip route add default via %s", h.IP, OutsideIP))
}

// Command is a command inside the host, with the built binaries first on its PATH.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := append([]string{"--target", fmt.Sprint(h.holder.Process.Pid), "--net", "--mount", "--uts", "--wd=/", "--", name}, args...)
	cmd := exec.CommandContext(ctx, "nsenter", argv...)
	cmd.Env = append(os.Environ(), "PATH="+h.BinDir+":"+os.Getenv("PATH"), "HOME=/root", "KUBECONFIG=")
	return cmd
}

// Run runs a command inside the host and returns what it printed on both streams.
func (h *Host) Run(name string, args ...string) (string, error) {
	return run(func(ctx context.Context) *exec.Cmd { return h.Command(ctx, name, args...) })
}

// Outside runs a command in the outside world's network.
func (h *Host) Outside(name string, args ...string) (string, error) {
	return run(func(ctx context.Context) *exec.Cmd {
		return exec.CommandContext(ctx, "nsenter", append([]string{"--target", fmt.Sprint(h.outside.Process.Pid), "--net", "--", name}, args...)...)
	})
}

func run(command func(context.Context) *exec.Cmd) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := command(ctx)
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), err
}

// MustRun is Run that fails the test on an error.
func (h *Host) MustRun(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Run(name, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// Skiff runs the skiff command in the host.
func (h *Host) Skiff(args ...string) (string, error) {
	return h.Run(filepath.Join(h.BinDir, "skiff"), args...)
}

// Up starts a node on the host, below the host's own cgroup parent, and returns what `skiff up` printed.
func (h *Host) Up() string {
	h.t.Helper()
	return h.MustSkiff("up", "--cgroup-root", h.CgroupRoot)
}

// MustSkiff is Skiff that fails the test on an error.
func (h *Host) MustSkiff(args ...string) string {
	h.t.Helper()
	return h.MustRun(filepath.Join(h.BinDir, "skiff"), args...)
}

// Kubectl runs skiff kubectl and fails the test on an error.
func (h *Host) Kubectl(args ...string) string {
	h.t.Helper()
	return h.MustSkiff(append([]string{"kubectl"}, args...)...)
}

// Path is where the test process sees a file of the host.
func (h *Host) Path(inside string) string {
	return filepath.Join("/proc", fmt.Sprint(h.holder.Process.Pid), "root", inside)
}

// InNetwork calls f on a thread that is in the host's network: a socket that f opens stays there.
func (h *Host) InNetwork(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- inNetwork(h.holder.Process.Pid, f) }()
	return <-done
}

func inNetwork(pid int, f func() error) error {
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the host's network: %w", err)
	}
	defer func() {
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
	}()
	return f()
}

// Eventually asks a question until the answer is yes, and fails the test with the last answer when time is up.
func Eventually(t TB, limit time.Duration, what string, ask func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		ok, answer := ask()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, limit, answer)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
