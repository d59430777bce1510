//go:build root

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// foreign are the runtime handlers of each test's configuration, as far as their binaries are there.
var foreign = map[string]string{"crun": "crun", "debian-runc": "runc", "shim": "containerd-shim-runc-v2"}

// eachHandler runs a test with each kind of runtime.
func eachHandler(t *testing.T, test func(h *host, handler string)) {
	// Debian's crun refuses to work beside a cgroup2 mount that has controllers. This mount namespace is the test's own.
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(filepath.Join(unified, "cgroup.controllers")); err == nil {
		if err := unix.Mount("none", unified, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(unified, unix.MNT_DETACH)
	}
	for _, handler := range []string{"", "crun", "debian-runc", "shim"} {
		t.Run("handler "+handler, func(t *testing.T) {
			if binary := foreign[handler]; binary != "" {
				if _, err := exec.LookPath(binary); err != nil {
					t.Skipf("needs %s", binary)
				}
			}
			test(newHost(t), handler)
		})
	}
}

func (h *host) runWith(handler string, c *cri.PodSandboxConfig) string {
	h.Helper()
	r, err := h.runtime.RunPodSandbox(h.Context(), &cri.RunPodSandboxRequest{Config: c, RuntimeHandler: handler})
	if err != nil {
		h.Fatal(err)
	}
	return r.PodSandboxId
}

func TestHandlersLife(t *testing.T) {
	eachHandler(t, func(h *host, handler string) {
		config := h.sandboxConfig("web")
		box := h.runWith(handler, config)
		id := h.start(box, containerConfig("app", "echo out; echo err >&2; trap 'exit 7' TERM; while true; do sleep 0.05; done"), config)
		h.until("both lines are logged", func() bool { return len(h.logged(h.status(id).LogPath)) == 2 })
		if got := h.exec(id, "sh", "-c", "hostname; ls /sys/class/net | tr '\\n' ' '"); got != "web\neth0 lo " {
			h.Errorf("in the container: %q", got)
		}
		if own := strings.Contains(h.exec(id, "grep", "^overlay / ", "/proc/mounts"), "index=on"); own != (handler == "debian-runc") {
			h.Errorf("the root file system has the handler's snapshot options: %t", own)
		}
		checkProcesses(h, id)
		checkUpdate(h, id)
		stats, err := h.runtime.ContainerStats(h.Context(), &cri.ContainerStatsRequest{ContainerId: id})
		if err != nil || stats.Stats.Memory.WorkingSetBytes.GetValue() == 0 || stats.Stats.Cpu.UsageCoreNanoSeconds.GetValue() == 0 {
			h.Errorf("stats: %v, %v", stats, err)
		}
		h.kill()
		h.up()
		if s := h.status(id); s.State != cri.ContainerState_CONTAINER_RUNNING {
			h.Errorf("after the server was killed: %v", s)
		}
		if got := h.exec(id, "echo", "still"); got != "still\n" {
			h.Errorf("exec after the server was killed: %q", got)
		}
		h.killKeeper()
		h.until("a new keeper executes in the container", func() bool {
			r, err := h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", "still"}, Timeout: 20})
			return err == nil && string(r.Stdout) == "still\n"
		})
		if _, err := h.runtime.StopContainer(h.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
			h.Fatal(err)
		}
		if s := h.status(id); s.ExitCode != 7 || s.Reason != "Error" {
			h.Errorf("after stop: %v", s)
		}
		h.remove(box)
		h.nothingLeft()
	})
}

// checkProcesses runs programs in the container in all ways that there are.
func checkProcesses(h *host, id string) {
	h.Helper()
	r, err := h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo a; echo b >&2; exit 5"}, Timeout: 20})
	if err != nil || string(r.Stdout) != "a\n" || string(r.Stderr) != "b\n" || r.ExitCode != 5 {
		h.Errorf("exec: %v, %v", r, err)
	}
	_, err = h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "999"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		h.Errorf("a command that takes too long: %v", err)
	}
	h.until("it is gone", func() bool { return !strings.Contains(h.exec(id, "ps"), "sleep 999") })
	if _, err := h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such"}, Timeout: 20}); err == nil {
		h.Error("a program that does not exist was executed")
	}
	exec, err := h.runtime.Exec(h.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "cat; echo end >&2; exit 3"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		h.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	err = stream(h, exec.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("in"), Stdout: &stdout, Stderr: &stderr})
	if err == nil || !strings.Contains(err.Error(), "exit code 3") || stdout.String() != "in" || stderr.String() != "end\n" {
		h.Errorf("exec with streams: %q, %q, %v", &stdout, &stderr, err)
	}
	tty, err := h.runtime.Exec(h.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "stty size; tty"}, Stdout: true, Tty: true})
	if err != nil {
		h.Fatal(err)
	}
	stdout.Reset()
	if err := stream(h, tty.Url, remotecommand.StreamOptions{Stdout: &stdout, Tty: true}); err != nil || !strings.Contains(stdout.String(), "/dev/pts/") {
		h.Errorf("exec with a terminal: %q, %v", &stdout, err)
	}
}

func checkUpdate(h *host, id string) {
	h.Helper()
	_, err := h.runtime.UpdateContainerResources(h.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuShares: 512},
	})
	if err != nil {
		h.Errorf("update: %v", err)
		return
	}
	for _, path := range []string{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"} {
		r, err := h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", path}, Timeout: 20})
		if err == nil && r.ExitCode == 0 {
			if got := strings.TrimSpace(string(r.Stdout)); got != fmt.Sprint(96<<20) {
				h.Errorf("memory limit after the update: %s", got)
			}
			return
		}
	}
	h.Error("the container sees no memory cgroup of its own")
}

func TestHandlersExits(t *testing.T) {
	eachHandler(t, func(h *host, handler string) {
		config := h.sandboxConfig("exits")
		box := h.runWith(handler, config)
		for name, tc := range map[string]struct {
			script, reason string
			code           int32
		}{
			"zero":   {"true", "Completed", 0},
			"three":  {"exit 3", "Error", 3},
			"signal": {"sh -c 'kill -9 $$'; exit $?", "Error", 137},
			"oom":    {"x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo ${#x}", "OOMKilled", 137},
		} {
			c := containerConfig(name, tc.script)
			if name == "oom" {
				c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 24 << 20}
			}
			if s := h.ended(h.start(box, c, config)); s.ExitCode != tc.code || s.Reason != tc.reason {
				h.Errorf("%s: code %d, reason %s", name, s.ExitCode, s.Reason)
			}
		}
		missing := containerConfig("none", "")
		missing.Command = []string{"/no/such"}
		r, err := h.runtime.CreateContainer(h.Context(), &cri.CreateContainerRequest{PodSandboxId: box, SandboxConfig: config, Config: missing})
		if err != nil {
			h.Fatal(err)
		}
		if _, err := h.runtime.StartContainer(h.Context(), &cri.StartContainerRequest{ContainerId: r.ContainerId}); err == nil {
			h.Error("a program that does not exist was started")
		}
		if s := h.status(r.ContainerId); s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, "/no/such") {
			h.Errorf("start error: %v", s)
		}
	})
}

func TestHandlersAttach(t *testing.T) {
	eachHandler(t, func(h *host, handler string) {
		config := h.sandboxConfig("attach")
		box := h.runWith(handler, config)
		for _, tty := range []bool{false, true} {
			c := containerConfig(fmt.Sprint("app-", tty), "while read x; do echo got $x; done")
			c.Stdin, c.Tty = true, tty
			id := h.start(box, c, config)
			attach, err := h.runtime.Attach(h.Context(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: tty})
			if err != nil {
				h.Fatal(err)
			}
			h.attach(attach.Url, tty, "ahoy\n", "got ahoy")
		}
	})
}

func TestHandlersStatus(t *testing.T) {
	h := newHost(t)
	st, err := h.runtime.Status(t.Context(), &cri.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, handler := range st.RuntimeHandlers {
		names = append(names, handler.Name)
	}
	for handler, binary := range foreign {
		if _, err := exec.LookPath(binary); err == nil && !slices.Contains(names, handler) {
			t.Errorf("handlers %q lack %s", names, handler)
		}
	}
	_, err = h.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: h.sandboxConfig("x"), RuntimeHandler: "nonesuch"})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"nonesuch" is not configured; there are `) {
		t.Errorf("unknown handler: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "run/sandboxes/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// killKeeper ends the keeper as the kernel or an operator might.
func (h *host) killKeeper() {
	h.Helper()
	pid := h.keeperPid()
	if pid == 0 {
		h.Fatal("no keeper answers")
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		h.Fatal(err)
	}
}

// needShim skips where Debian's shim is missing.
func needShim(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath(foreign["shim"]); err != nil {
		t.Skipf("needs %s", foreign["shim"])
	}
}

// shimOf finds the shim of a sandbox, by its state.
func (h *host) shimOf(box string) (monitor, shim int) {
	h.Helper()
	monitor, shim, _ = h.shimAndSocket(box)
	return monitor, shim
}

func (h *host) shimAndSocket(box string) (monitor, shim int, socket string) {
	h.Helper()
	text, err := os.ReadFile(filepath.Join(h.dir, "run/keeper/foreign/shim", box, "state.json"))
	if err != nil {
		h.Fatal(err)
	}
	var state struct {
		Monitor, Pid int
		Shim         struct{ Address string }
	}
	if err := json.Unmarshal(text, &state); err != nil {
		h.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", state.Pid)) // the sandbox's process is the shim's child
	if err != nil {
		h.Fatal(err)
	}
	parent := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[1]
	if shim, err = strconv.Atoi(parent); err != nil {
		h.Fatal(err)
	}
	return state.Monitor, shim, strings.TrimPrefix(state.Shim.Address, "unix://")
}

func TestShimDies(t *testing.T) {
	needShim(t)
	h := newHost(t)
	config := h.sandboxConfig("dies")
	box := h.runWith("shim", config)
	id := h.start(box, containerConfig("app", "sleep 1000"), config)
	_, shim, socket := h.shimAndSocket(box)
	if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", shim)); !strings.Contains(string(name), "containerd-shim-runc-v2") {
		t.Fatalf("process %d is no shim: %q", shim, name)
	}
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := h.ended(id); s.ExitCode == 0 {
		t.Errorf("after its shim died: %v", s)
	}
	h.remove(box)
	h.nothingLeft()
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("socket %s of the dead shim: %v", socket, err)
	}
}

func TestShimMonitorDies(t *testing.T) {
	needShim(t)
	h := newHost(t)
	config := h.sandboxConfig("monitor")
	box := h.runWith("shim", config)
	id := h.start(box, containerConfig("app", "sleep 1000"), config)
	monitor, _ := h.shimOf(id)
	if err := unix.Kill(monitor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if s := h.ended(id); s.ExitCode != 137 {
		t.Errorf("after its monitor died: %v", s)
	}
	_, shim := h.shimOf(box)
	h.remove(box)
	h.until("the shim has ended", func() bool { return unix.Kill(shim, 0) != nil })
	h.nothingLeft()
}

func TestShimSharesPIDs(t *testing.T) {
	needShim(t)
	h := newHost(t)
	config := h.sandboxConfig("pids")
	config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	box := h.runWith("shim", config)
	var ids []string
	for _, name := range []string{"a", "b"} {
		c := containerConfig(name, "sleep 1234"+strconv.Itoa(len(ids)))
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		ids = append(ids, h.start(box, c, config))
	}
	for _, id := range ids {
		if got := h.exec(id, "ps"); !strings.Contains(got, "sleep 12340") || !strings.Contains(got, "sleep 12341") || !strings.Contains(got, "/pause") {
			t.Errorf("processes of the pod:\n%s", got)
		}
	}
	h.remove(box)
	h.nothingLeft()
}
