//go:build root

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// counter counts in its memory, and shows it in a file and on its streams.
const counter = "i=0; while true; do i=$((i+1)); echo $i >/count; echo out $i; echo err $i >&2; sleep 0.05; done"

// criuWorks asks CRIU itself.
func criuWorks() error {
	if _, err := exec.LookPath("criu"); err != nil {
		return err
	}
	return exec.Command("criu", "check").Run()
}

// TestCheckpointsAreRefusedWithTheReason where CRIU is missing, or the kernel is none of its.
func TestCheckpointsAreRefusedWithTheReason(t *testing.T) {
	if criuWorks() == nil {
		t.Skip("CRIU works here")
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	box := h.runSandbox(config)
	id := h.start(box, containerConfig("app", counter), config)
	archive := filepath.Join(h.dir, "archive.tar")
	_, err := h.runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{ContainerId: id, Location: archive})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "criu") {
		t.Errorf("container: %v", err)
	}
	out := filepath.Join(h.dir, "pod")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = h.runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: out, ContainerIds: []string{id}})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "criu") {
		t.Errorf("pod: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(h.dir, "*archive*"))
	if entries, _ := os.ReadDir(out); len(entries) > 0 || len(left) > 0 || err != nil {
		t.Errorf("left behind: %v %v", entries, left)
	}
	before := h.exec(id, "cat", "/count")
	h.until("it counts on", func() bool { return h.exec(id, "cat", "/count") != before })
}

func TestBadCheckpointRequests(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("pod")
	box := h.runSandbox(config)
	id := h.start(box, containerConfig("app", "sleep 1000"), config)
	other := h.sandboxConfig("other")
	stranger := h.start(h.runSandbox(other), containerConfig("app", "sleep 1000"), other)
	full, empty := filepath.Join(h.dir, "logs"), filepath.Join(h.dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, tc := range map[string]struct {
		r    *cri.CheckpointPodRequest
		code codes.Code
	}{
		"unknown pod":         {&cri.CheckpointPodRequest{PodSandboxId: "none", OutputPath: empty, ContainerIds: []string{id}}, codes.NotFound},
		"relative path":       {&cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: "x", ContainerIds: []string{id}}, codes.InvalidArgument},
		"missing directory":   {&cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: "/no/such", ContainerIds: []string{id}}, codes.InvalidArgument},
		"directory not empty": {&cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: full, ContainerIds: []string{id}}, codes.InvalidArgument},
		"no container":        {&cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: empty}, codes.InvalidArgument},
		"twice":               {&cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: empty, ContainerIds: []string{id, id}}, codes.InvalidArgument},
		"another pod's":       {&cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: empty, ContainerIds: []string{stranger}}, codes.InvalidArgument},
		"unknown option": {&cri.CheckpointPodRequest{
			PodSandboxId: box, OutputPath: empty, ContainerIds: []string{id}, Options: map[string]string{"fast": "yes"},
		}, codes.InvalidArgument},
	} {
		if _, err := h.runtime.CheckpointPod(ctx, tc.r); status.Code(err) != tc.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.runtime.CheckpointPod(t.Context(), &cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: empty, ContainerIds: []string{id}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a deadline: %v", err)
	}
	if _, err := h.runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: empty, Config: config}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("restore of nothing: %v", err)
	}
	if _, err := h.runtime.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: id, Location: "x.tar"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("relative location: %v", err)
	}
	if _, err := h.runtime.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: "none", Location: "/x.tar"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown container: %v", err)
	}
}

func TestCheckpointOfAContainer(t *testing.T) {
	if err := criuWorks(); err != nil {
		t.Skipf("CRIU does not work here: %v", err)
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	box := h.runSandbox(config)
	id := h.start(box, containerConfig("app", counter), config)
	at := h.countsBeyond(id, 0)
	archive := filepath.Join(h.dir, "archive.tar")
	if _, err := h.runtime.CheckpointContainer(t.Context(), &cri.CheckpointContainerRequest{ContainerId: id, Location: archive}); err != nil {
		t.Fatal(err)
	}
	names := h.archived(archive)
	for _, want := range []string{"config.dump", "spec.dump", "rootfs-diff.tar", "checkpoint/pstree.img"} {
		if !names[want] {
			t.Errorf("%s is not in the archive: %v", want, names)
		}
	}
	if names["checkpoint/skiff-criu.conf"] {
		t.Error("the archive tells CRIU what to do")
	}
	h.countsBeyond(id, at)
	h.remove(box)
	h.nothingLeft()
}

// frozenPod checkpoints a pod of containers that count, and removes it. It returns the directory and where they were.
func (h *host) frozenPod(config *cri.PodSandboxConfig, containers []*cri.ContainerConfig) (dir string, at map[string]int) {
	h.Helper()
	box := h.runSandbox(config)
	at = map[string]int{}
	var ids []string
	for i, c := range containers {
		id := h.start(box, c, config)
		ids = append(ids, id)
		at[c.Metadata.Name] = h.countsBeyond(id, 10*(i+1))
	}
	dir = filepath.Join(h.dir, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	defer cancel()
	if _, err := h.runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: dir, ContainerIds: ids}); err != nil {
		h.Fatal(err)
	}
	for i, c := range containers {
		h.countsBeyond(ids[i], at[c.Metadata.Name]+1) // the pod goes on
	}
	h.remove(box)
	h.nothingLeft()
	return dir, at
}

// countsBeyond waits until a counter has passed a number, and says where it is.
func (h *host) countsBeyond(id string, number int) (at int) {
	h.Helper()
	h.until("it counts", func() bool {
		// It may be about to write.
		at, _ = strconv.Atoi(strings.TrimSpace(h.exec(id, "sh", "-c", "cat /count || true")))
		return at > number
	})
	return at
}

// TestCheckpointAndRestore freezes a pod that counts, and lets another go on where it was: in a network, cgroups and logs
// of its own.
func TestCheckpointAndRestore(t *testing.T) {
	if err := criuWorks(); err != nil {
		t.Skipf("CRIU does not work here: %v", err)
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	containers := []*cri.ContainerConfig{containerConfig("app", counter), containerConfig("interactive", counter), containerConfig("terminal", counter)}
	containers[1].Stdin = true
	containers[2].Stdin, containers[2].Tty = true, true
	dir, at := h.frozenPod(config, containers)

	config.Metadata.Uid, config.Metadata.Attempt, config.LogDirectory = "restored", 2, filepath.Join(h.dir, "logs", "restored")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	request := &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: containers}
	r, err := h.runtime.RestorePod(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range r.RestoredContainers {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"app", "interactive", "terminal"}) {
		t.Fatalf("%v", r)
	}
	h.kill()
	h.up()
	if again, err := h.runtime.RestorePod(ctx, request); err != nil || !proto.Equal(again, r) {
		t.Errorf("the same request again: %v, %v, want %v", again, err, r)
	}
	for _, c := range r.RestoredContainers {
		if s := h.status(c.ContainerId); s.State != cri.ContainerState_CONTAINER_CREATED {
			t.Errorf("%s after the restore: %v", c.Name, s.State)
		}
	}
	for _, c := range r.RestoredContainers {
		h.goesOn(ctx, r.PodSandboxId, c, at[c.Name])
		log := filepath.Join(config.LogDirectory, c.Name+".log")
		h.until("both streams are logged", func() bool {
			out, errs := 0, 0
			for _, line := range h.logged(log) {
				_, _ = fmt.Sscanf(line, "out %d", &out)
				_, _ = fmt.Sscanf(line, "err %d", &errs)
			}
			return out > at[c.Name]+10 && errs > at[c.Name]+10
		})
		if first := h.logged(log)[0]; first == "out 1" || first == "err 1" {
			t.Errorf("%s logs from the start: %q", c.Name, first)
		}
	}
	if _, err := h.runtime.RestorePod(ctx, request); err == nil {
		t.Error("a pod that runs is restored")
	}
	h.countsBeyond(r.RestoredContainers[1].ContainerId, h.countsBeyond(r.RestoredContainers[1].ContainerId, 0)) // unharmed
	h.stops(ctx, r.RestoredContainers[0].ContainerId)
	h.remove(r.PodSandboxId)
	h.nothingLeft()
}

// goesOn starts a restored container, which must count on from a number, with the pod's address and a cgroup of its own.
func (h *host) goesOn(ctx context.Context, box string, c *cri.RestoredContainer, from int) {
	h.Helper()
	id := c.ContainerId
	if _, err := h.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err != nil {
		h.Fatalf("%s: %v", c.Name, err)
	}
	seen := h.countsBeyond(id, 0)
	if seen < from {
		h.Errorf("%s was at %d, and goes on from %d", c.Name, from, seen)
	}
	if now := h.countsBeyond(id, seen); now > 100*seen {
		h.Errorf("%s jumped from %d to %d", c.Name, seen, now)
	}
	if s := h.status(id); s.State != cri.ContainerState_CONTAINER_RUNNING {
		h.Errorf("%s is %v", c.Name, s.State)
	}
	if out := h.exec(id, "busybox", "ip", "addr"); !strings.Contains(out, h.ip(box)) {
		h.Errorf("%s does not have the pod's address %s: %s", c.Name, h.ip(box), out)
	}
	// An exec joins the container's cgroup, where the counting shell must be.
	h.expect(id, "busybox cmp /proc/1/cgroup /proc/self/cgroup && echo same", "same")
}

// stops ends a container that was restored: shells that are init ignore SIGTERM, so it is killed.
func (h *host) stops(ctx context.Context, id string) {
	h.Helper()
	if _, err := h.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
		h.Fatal(err)
	}
	if s := h.status(id); s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 {
		h.Errorf("after the stop: %v, code %d", s.State, s.ExitCode)
	}
}

// TestRestoreThatFailsLeavesNothing, whether the request does not fit or the checkpoint is damaged.
func TestRestoreThatFailsLeavesNothing(t *testing.T) {
	if err := criuWorks(); err != nil {
		t.Skipf("CRIU does not work here: %v", err)
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	containers := []*cri.ContainerConfig{containerConfig("one", counter), containerConfig("two", counter)}
	dir, _ := h.frozenPod(config, containers)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	refused := func(what string, containers []*cri.ContainerConfig) {
		if r, err := h.runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: containers}); err == nil {
			t.Errorf("%s: %v", what, r)
		}
		h.nothingLeft()
	}
	refused("one is missing", containers[:1])
	refused("another program", []*cri.ContainerConfig{containers[0], containerConfig("two", "sleep 1000")})
	if err := os.Truncate(filepath.Join(dir, "two", "checkpoint", "core-1.img"), 0); err != nil {
		t.Fatal(err)
	}
	r, err := h.runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: containers})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.RestoredContainers[1].ContainerId}); err == nil || !strings.Contains(err.Error(), "criu") {
		t.Errorf("a process without registers: %v", err)
	}
	if s := h.status(r.RestoredContainers[1].ContainerId); s.State != cri.ContainerState_CONTAINER_EXITED {
		t.Errorf("what could not be started is %v", s.State)
	}
	h.remove(r.PodSandboxId)
	h.nothingLeft()
	diff := filepath.Join(dir, "two", "rootfs-diff.tar")
	if err := os.WriteFile(diff, bytes.Repeat([]byte("no archive"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("the second's files are damaged", containers)
	if err := os.Remove(diff); err != nil {
		t.Fatal(err)
	}
	refused("the second's files are missing", containers)
}

// TestRestoreOfDamagedMemory: CRIU looks for pages that are not there, for ever.
func TestRestoreOfDamagedMemory(t *testing.T) {
	if err := criuWorks(); err != nil {
		t.Skipf("CRIU does not work here: %v", err)
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	containers := []*cri.ContainerConfig{containerConfig("app", counter)}
	dir, _ := h.frozenPod(config, containers)
	if err := os.Truncate(filepath.Join(dir, "app", "checkpoint", "pages-1.img"), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	r, err := h.runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: containers})
	if err != nil {
		t.Fatal(err)
	}
	id := r.RestoredContainers[0].ContainerId
	if _, err := h.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}); err == nil || ctx.Err() != nil {
		t.Errorf("a process without memory: %v", err)
	}
	if s := h.status(id); s.State != cri.ContainerState_CONTAINER_EXITED || s.Reason != "StartError" {
		t.Errorf("what could not be started is %v, %s", s.State, s.Reason)
	}
	h.remove(r.PodSandboxId)
	h.nothingLeft()
}

// TestRestoredInput speaks to programs that count the lines they read, before and after.
func TestRestoredInput(t *testing.T) {
	if err := criuWorks(); err != nil {
		t.Skipf("CRIU does not work here: %v", err)
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	box := h.runSandbox(config)
	const script = `n=0; while read -r line; do n=$((n+1)); echo "line $n: $line"; done`
	containers := []*cri.ContainerConfig{containerConfig("pipe", script), containerConfig("terminal", script)}
	containers[0].Stdin = true
	containers[1].Stdin, containers[1].Tty = true, true
	var ids []string
	for _, c := range containers {
		id := h.start(box, c, config)
		ids = append(ids, id)
		h.says(id, c.Tty, "before", "line 1: before")
	}
	dir := filepath.Join(h.dir, "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if _, err := h.runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: dir, ContainerIds: ids}); err != nil {
		t.Fatal(err)
	}
	h.remove(box)
	r, err := h.runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: containers})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range r.RestoredContainers {
		if _, err := h.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
			t.Fatal(err)
		}
		h.says(c.ContainerId, containers[i].Tty, "after", "line 2: after")
	}
	h.remove(r.PodSandboxId)
	h.nothingLeft()
}

// says attaches to a container, and waits for its answer to a line.
func (h *host) says(id string, tty bool, line, want string) {
	h.Helper()
	r, err := h.runtime.Attach(h.Context(), &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Tty: tty})
	if err != nil {
		h.Fatal(err)
	}
	h.attach(r.Url, tty, line+"\n", want)
}

func (h *host) archived(path string) map[string]bool {
	h.Helper()
	f, err := os.Open(path)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	names := map[string]bool{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			h.Fatal(err)
		}
		names[header.Name] = true
	}
}
