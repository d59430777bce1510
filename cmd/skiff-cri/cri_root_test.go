//go:build root

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLifeOfAPod(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("web")
	box := h.runSandbox(config)
	if again := h.runSandbox(config); again != box {
		t.Errorf("the identical request made another sandbox: %s", again)
	}
	st, err := h.runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: box[:12]})
	if err != nil || st.Status.State != cri.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip == "" {
		t.Fatalf("%v, %v", st, err)
	}
	image, err := h.images.ImageStatus(t.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: testImage}})
	if err != nil {
		t.Fatal(err)
	}
	container := containerConfig("app", "echo out; echo err >&2; trap 'exit 7' TERM; while true; do sleep 0.05; done")
	container.Image = &cri.ImageSpec{Image: image.Image.Id, UserSpecifiedImage: "busybox:test"} // as kubelets do
	id := h.start(box, container, config)
	s := h.status(id)
	if s.State != cri.ContainerState_CONTAINER_RUNNING || s.StartedAt == 0 {
		t.Errorf("%v", s)
	}
	if s.Image.Image != testImage || s.Image.UserSpecifiedImage != "" || s.ImageId != image.Image.Id || len(image.Image.RepoDigests) == 0 || s.ImageRef != image.Image.RepoDigests[0] {
		t.Errorf("image %v, image_ref %s, image_id %s of %v", s.Image, s.ImageRef, s.ImageId, image.Image)
	}
	if st, err = h.runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: box}); err != nil || st.ContainersStatuses[0].Image.Image != testImage {
		t.Errorf("%v, %v", st, err)
	}
	h.until("both lines are logged", func() bool { return len(h.logged(s.LogPath)) == 2 })
	if got := h.exec(id, "sh", "-c", "hostname; cat /etc/resolv.conf"); got != "web\nsearch test.local\nnameserver 10.0.0.10\n" {
		t.Errorf("host name and resolv.conf: %q", got)
	}
	if got := h.exec(id, "ls", "/sys/class/net"); !strings.Contains(got, "eth0") {
		t.Errorf("interfaces: %q", got)
	}
	stats, err := h.runtime.PodSandboxStats(t.Context(), &cri.PodSandboxStatsRequest{PodSandboxId: box})
	if err != nil || stats.Stats.Linux.Memory.WorkingSetBytes.GetValue() == 0 || stats.Stats.Linux.Network.DefaultInterface.Name != "eth0" ||
		len(stats.Stats.Linux.Containers) != 1 || stats.Stats.Linux.Containers[0].WritableLayer == nil {
		t.Errorf("stats: %v, %v", stats, err)
	}
	if _, err := h.runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	if s := h.status(id); s.ExitCode != 7 || s.Reason != "Error" || s.FinishedAt == 0 {
		t.Errorf("after stop: %v", s)
	}
	for range 2 {
		if _, err := h.runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: box}); err != nil {
			t.Fatal(err)
		}
		h.remove(box)
	}
	_, err = h.runtime.PodSandboxStatus(t.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: box})
	if status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed sandbox: %v", err)
	}
	h.nothingLeft()
}

func TestExits(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("exits")
	box := h.runSandbox(config)
	for name, tc := range map[string]struct {
		script, reason string
		memory         int64
		code           int32
	}{
		"zero":   {"true", "Completed", 0, 0},
		"three":  {"exit 3", "Error", 0, 3},
		"signal": {"kill -9 $$", "Error", 0, 137},
		"oom":    {"head -c 200m /dev/zero | tr '\\0' a | sort", "OOMKilled", 24 << 20, 137},
	} {
		c := containerConfig(name, tc.script)
		if name == "oom" {
			c.Command = []string{"sh", "-c", "x=$(head -c 200000000 /dev/zero | tr '\\0' a); echo ${#x}"}
			c.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: tc.memory}
		}
		if name == "signal" { // PID 1 is deaf to signals of its own namespace
			c.Command = []string{"sh", "-c", "sh -c 'kill -9 $$'; exit $?"}
		}
		id := h.start(box, c, config)
		if s := h.ended(id); s.ExitCode != tc.code || s.Reason != tc.reason {
			t.Errorf("%s: code %d, reason %s", name, s.ExitCode, s.Reason)
		}
	}
	missing := containerConfig("none", "")
	missing.Command = []string{"/no/such"}
	r, err := h.runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: box, SandboxConfig: config, Config: missing})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: r.ContainerId}); err == nil {
		t.Error("a program that does not exist was started")
	}
	if s := h.status(r.ContainerId); s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, "/no/such") {
		t.Errorf("start error: %v", s)
	}
}

func TestExecSync(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("exec")
	id := h.start(h.runSandbox(config), containerConfig("app", "sleep 1000"), config)
	r, err := h.runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo a; echo b >&2; exit 5"}})
	if err != nil || string(r.Stdout) != "a\n" || string(r.Stderr) != "b\n" || r.ExitCode != 5 {
		t.Errorf("%v, %v", r, err)
	}
	_, err = h.runtime.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "999"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a command that takes too long: %v", err)
	}
	if got := h.exec(id, "ps"); strings.Contains(got, "sleep 999") {
		t.Errorf("it still runs:\n%s", got)
	}
}

func TestSessions(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("sessions")
	box := h.runSandbox(config)
	c := containerConfig("app", "httpd -p 127.0.0.1:8080 -h /www; while read x; do echo got $x; done")
	c.Stdin = true
	id := h.start(box, c, config)

	exec, err := h.runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "cat; echo end >&2; exit 3"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	err = stream(t, exec.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("in"), Stdout: &stdout, Stderr: &stderr})
	if err == nil || !strings.Contains(err.Error(), "exit code 3") || stdout.String() != "in" || stderr.String() != "end\n" {
		t.Errorf("exec: %q, %q, %v", &stdout, &stderr, err)
	}

	tty, err := h.runtime.Exec(t.Context(), &cri.ExecRequest{ContainerId: id, Cmd: []string{"tty"}, Stdout: true, Tty: true})
	if err != nil {
		t.Fatal(err)
	}
	stdout.Reset()
	if err := stream(t, tty.Url, remotecommand.StreamOptions{Stdout: &stdout, Tty: true}); err != nil || !strings.HasPrefix(stdout.String(), "/dev/pts/") {
		t.Errorf("tty: %q, %v", &stdout, err)
	}
	if err := stream(t, tty.Url, remotecommand.StreamOptions{Stdout: &stdout, Tty: true}); err == nil {
		t.Error("a session's URL was good twice")
	}

	attach, err := h.runtime.Attach(t.Context(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	seen := &until{want: "got ahoy\n", found: cancel}
	err = streamCtx(ctx, attach.Url, remotecommand.StreamOptions{Stdin: strings.NewReader("ahoy\n"), Stdout: seen})
	if !seen.ok {
		t.Errorf("attach: %q, %v", seen.text, err)
	}
	checkPortForward(t, h, box)
}

// until is a writer that waits for a text.
type until struct {
	want, text string
	ok         bool
	found      func()
}

func (u *until) Write(p []byte) (int, error) {
	u.text += string(p)
	if !u.ok && strings.Contains(u.text, u.want) {
		u.ok = true
		u.found()
	}
	return len(p), nil
}

func stream(t testing.TB, session string, o remotecommand.StreamOptions) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return streamCtx(ctx, session, o)
}

func streamCtx(ctx context.Context, session string, o remotecommand.StreamOptions) error {
	u, err := url.Parse(session)
	if err != nil {
		return err
	}
	e, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, o)
}

func TestNamespaces(t *testing.T) {
	h := newHost(t)
	shared := h.sandboxConfig("shared")
	shared.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	shared.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_forward": "1"}
	box := h.runSandbox(shared)
	pod := func(name string) *cri.ContainerConfig {
		c := containerConfig(name, "sleep 1000")
		c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
		return c
	}
	a, b := h.start(box, pod("a"), shared), h.start(box, pod("b"), shared)
	h.until("a sees its pod's processes", func() bool {
		got := h.exec(a, "ps")
		return strings.Count(got, "sleep 1000") == 2 && strings.Contains(got, "pause")
	})
	if got := h.exec(b, "cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/ip_forward"); got != "1\n1\n" {
		t.Errorf("sysctls: %q", got)
	}
	h.exec(a, "sh", "-c", "echo x > /dev/shm/f")
	if got := h.exec(b, "cat", "/dev/shm/f"); got != "x\n" {
		t.Errorf("shared memory: %q", got)
	}
	debug := containerConfig("debug", "sleep 500")
	debug.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: a}
	if got := h.exec(h.start(box, debug, shared), "ps"); !strings.Contains(got, "sleep 1000") {
		t.Errorf("processes of the target:\n%s", got)
	}
	node := h.sandboxConfig("node")
	node.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	hostBox := h.runSandbox(node)
	c := containerConfig("a", "sleep 1000")
	c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	name, _ := os.Hostname()
	if got := h.exec(h.start(hostBox, c, node), "sh", "-c", "hostname; ls /sys/class/net"); !strings.Contains(got, name+"\n") || !strings.Contains(got, "skiff0") {
		t.Errorf("on the host's network: %q", got)
	}
	h.remove(box)
	h.remove(hostBox)
	h.nothingLeft()
}

func TestUserAndSecurity(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("user")
	box := h.runSandbox(config)
	c := containerConfig("alice", "sleep 1000")
	s := c.Linux.SecurityContext
	s.RunAsUsername, s.SupplementalGroups, s.NoNewPrivs, s.ReadonlyRootfs = "alice", []int64{77}, true, true
	s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
	id := h.start(box, c, config)
	if got := h.exec(id, "id"); got != "uid=1000(alice) gid=1000 groups=77,1000,5000(crew)\n" && !strings.Contains(got, "5000(crew)") {
		t.Errorf("id: %q", got)
	}
	if u := h.status(id).User.Linux; u.Uid != 1000 || fmt.Sprint(u.SupplementalGroups) != "[1000 77 5000]" {
		t.Errorf("user in the status: %v", u)
	}
	got := h.exec(id, "cat", "/proc/1/status")
	for _, want := range []string{"CapEff:\t0000000000000400", "CapAmb:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	c = containerConfig("strict", "sleep 1000")
	c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
	c.Linux.SecurityContext.SupplementalGroupsPolicy = cri.SupplementalGroupsPolicy_Strict
	if u := h.status(h.start(box, c, config)).User.Linux; fmt.Sprint(u.SupplementalGroups) != "[1000]" {
		t.Errorf("strict groups: %v", u)
	}
}

// TestServerKilled kills the server while containers run: they are adopted with state, logs and exit codes right.
func TestServerKilled(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("adopted")
	box := h.runSandbox(config)
	counter := h.start(box, containerConfig("counter", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done"), config)
	gate := filepath.Join(h.dir, "gate")
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := containerConfig("ends", "while [ -e /gate/gate ]; do sleep 0.02; done; echo bye; exit 9")
	c.Mounts = []*cri.Mount{{ContainerPath: "/gate", HostPath: h.dir}}
	ends := h.start(box, c, config)
	log := h.status(counter).LogPath
	before, ip := h.exec(counter, "cat", "/proc/1/stat"), h.ip(box)

	h.kill()
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	lines := len(h.logged(log))
	h.until("the log grows without a server", func() bool { return len(h.logged(log)) > lines+10 })
	h.until("the other one says bye", func() bool { return len(h.logged(filepath.Join(filepath.Dir(log), "ends.log"))) == 1 })
	h.up()

	if s := h.ended(ends); s.ExitCode != 9 || s.Reason != "Error" {
		t.Errorf("the one that ended meanwhile: %v", s)
	}
	if s := h.status(counter); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the one that runs: %v", s)
	}
	if after := h.exec(counter, "cat", "/proc/1/stat"); starttime(after) != starttime(before) {
		t.Error("it is another process")
	}
	if now := h.ip(box); now != ip {
		t.Errorf("the address was %s and is %s", ip, now)
	}
	for n, line := range h.logged(log) {
		if line != fmt.Sprint(n) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
	h.remove(box)
	h.nothingLeft()
}

func (h *host) ip(box string) string {
	h.Helper()
	st, err := h.runtime.PodSandboxStatus(h.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: box})
	if err != nil {
		h.Fatal(err)
	}
	return st.Status.Network.Ip
}

func starttime(stat string) string { return strings.Fields(stat[strings.LastIndex(stat, ")"):])[20] }

// TestServerKilledAtWork kills the server at many instants of a pod's making and unmaking. Whatever it was doing, the
// next one finds or undoes it, and the same requests succeed.
func TestServerKilledAtWork(t *testing.T) {
	h := newHost(t)
	for n := range 12 {
		config := h.sandboxConfig(fmt.Sprintf("chaos-%d", n))
		worked := make(chan struct{})
		go func(runtime cri.RuntimeServiceClient) {
			defer close(worked)
			work(t.Context(), runtime, config)
		}(h.runtime)
		select {
		case <-worked:
		case <-time.After(time.Duration(n*n) * time.Millisecond):
		}
		h.kill()
		<-worked
		h.up()
		box := h.runSandbox(config)
		h.ended(h.start(box, containerConfig("again", "exit 0"), config))
		h.remove(box)
		list, err := h.runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, left := range list.Items {
			h.remove(left.Id)
		}
		h.nothingLeft()
	}
}

func work(ctx context.Context, runtime cri.RuntimeServiceClient, config *cri.PodSandboxConfig) {
	box, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return
	}
	c, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: box.PodSandboxId, Config: containerConfig("app", "sleep 1000"), SandboxConfig: config})
	if err != nil {
		return
	}
	if _, err := runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return
	}
	_, _ = runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: box.PodSandboxId})
}

// TestKilledWhileStopping leaves records as a server does that is killed between writing that a sandbox stops and
// stopping it: the next one completes the stop although a container runs.
func TestKilledWhileStopping(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("stopping")
	box := h.runSandbox(config)
	id := h.start(box, containerConfig("app", "trap '' TERM; while true; do sleep 1; done"), config)
	h.kill()
	path := filepath.Join(h.dir, "run", "records", "sandboxes", box+".json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	torn := bytes.Replace(text, []byte(`"Phase":"ready"`), []byte(`"Phase":"stopping"`), 1)
	if bytes.Equal(torn, text) {
		t.Fatalf("the record says nothing of its phase: %s", text)
	}
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	h.up()
	if s := h.status(id); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
		t.Errorf("the container: %v", s)
	}
	h.remove(box)
	h.nothingLeft()
}

// TestStoppedWhileStarting stops sandboxes in which a container is just being started. Once that is done nothing of the start goes on: the
// client takes the pod's cgroup away then.
func TestStoppedWhileStarting(t *testing.T) {
	h := newHost(t)
	for i := range 25 {
		config := h.sandboxConfig("starting")
		box := h.runSandbox(config)
		made, err := h.runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: box, Config: containerConfig("app", "sleep 1000"), SandboxConfig: config})
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error)
		go func() {
			_, err := h.runtime.StartContainer(context.WithoutCancel(t.Context()), &cri.StartContainerRequest{ContainerId: made.ContainerId})
			started <- err
		}()
		time.Sleep(time.Duration(i) * time.Millisecond) // somewhere in the start
		if _, err := h.runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: box}); err != nil {
			t.Fatal(err)
		}
		stopped := h.status(made.ContainerId)
		err = <-started
		if after := h.status(made.ContainerId); after.State != stopped.State || after.State == cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("after %d ms: %s when the sandbox had stopped, %s when the start had ended (%v)", i, stopped.State, after.State, err)
		}
		h.remove(box)
	}
	h.nothingLeft()
}

// TestTornRecord writes garbage over a sandbox's record: the next server discards it, ends its container and sweeps.
func TestTornRecord(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("torn")
	box := h.runSandbox(config)
	h.start(box, containerConfig("app", "sleep 1000"), config)
	h.kill()
	if err := os.WriteFile(filepath.Join(h.dir, "run", "records", "sandboxes", box+".json"), []byte(`{"version":1,"obj`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.up()
	list, err := h.runtime.ListContainers(t.Context(), &cri.ListContainersRequest{})
	if err != nil || len(list.Containers) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	h.nothingLeft()
}
