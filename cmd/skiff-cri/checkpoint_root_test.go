//go:build root

package main

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// counter counts in its memory and shows it in a file.
const counter = "i=0; while true; do i=$((i+1)); echo $i >/count; sleep 0.05; done"

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

// TestCheckpointAndRestore freezes a pod that counts, and lets another go on where it was.
func TestCheckpointAndRestore(t *testing.T) {
	if err := criuWorks(); err != nil {
		t.Skipf("CRIU does not work here: %v", err)
	}
	h := newHost(t)
	config := h.sandboxConfig("pod")
	box := h.runSandbox(config)
	c := containerConfig("app", counter)
	id := h.start(box, c, config)
	h.until("it has counted", func() bool { return len(strings.TrimSpace(h.exec(id, "cat", "/count"))) > 1 })

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
	out := filepath.Join(h.dir, "checkpoint")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := h.runtime.CheckpointPod(ctx, &cri.CheckpointPodRequest{PodSandboxId: box, OutputPath: out, ContainerIds: []string{id}}); err != nil {
		t.Fatal(err)
	}
	at := strings.TrimSpace(h.exec(id, "cat", "/count"))
	h.until("it counts on", func() bool { return strings.TrimSpace(h.exec(id, "cat", "/count")) != at })
	h.remove(box)

	config.Metadata.Uid, config.Metadata.Attempt = "restored", 2
	r, err := h.runtime.RestorePod(ctx, &cri.RestorePodRequest{CheckpointPath: out, Config: config, ContainerConfigs: []*cri.ContainerConfig{c}})
	if status.Code(err) == codes.Unimplemented && strings.Contains(err.Error(), "criu 3") {
		h.nothingLeft()
		t.Skipf("checkpoints work; restoring does not: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(r.RestoredContainers) != 1 || r.RestoredContainers[0].Name != "app" {
		t.Fatalf("%v", r)
	}
	again := r.RestoredContainers[0].ContainerId
	if s := h.status(again); s.State != cri.ContainerState_CONTAINER_CREATED {
		t.Errorf("after the restore: %v", s.State)
	}
	if _, err := h.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: again}); err != nil {
		t.Fatalf("%v\n%s", err, h.log())
	}
	if n := strings.TrimSpace(h.exec(again, "cat", "/count")); len(n) < 2 {
		t.Errorf("it counts from the start: %s", n)
	}
	if _, err := h.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: again}); err != nil {
		t.Fatal(err)
	}
	h.remove(r.PodSandboxId)
	h.nothingLeft()
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
