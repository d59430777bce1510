//go:build root

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// watch collects the events of the server until the test ends.
func (h *host) watch() (all func() []*cri.ContainerEventResponse) {
	h.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := h.runtime.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	var mu sync.Mutex
	var events []*cri.ContainerEventResponse
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			mu.Lock()
			events = append(events, e)
			mu.Unlock()
		}
	})
	h.Cleanup(func() { cancel(); reader.Wait() })
	return func() []*cri.ContainerEventResponse {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(events)
	}
}

// TestEventsOfAPod: each change is told once, in order, with the status of the whole pod.
func TestEventsOfAPod(t *testing.T) {
	h := newHost(t)
	// A watcher that never reads holds nobody up.
	if _, err := h.runtime.GetContainerEvents(t.Context(), &cri.GetEventsRequest{}); err != nil {
		t.Fatal(err)
	}
	events := h.watch()
	// Nobody knows when the server has begun to watch: pods are made until the first event is there.
	h.until("an event arrives", func() bool {
		h.remove(h.runSandbox(h.sandboxConfig("probe")))
		return len(events()) > 0
	})
	config := h.sandboxConfig("web")
	box := h.runSandbox(config)
	id := h.start(box, containerConfig("app", "exit 3"), config)
	h.ended(id)
	if _, err := h.runtime.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	h.remove(box)
	var lines []string
	h.until("the sandbox is deleted", func() bool {
		lines = nil
		for _, e := range events() {
			if e.PodSandboxStatus.GetMetadata() == nil {
				t.Fatalf("an event without a pod: %v", e)
			}
			if e.PodSandboxStatus.Id == box {
				lines = append(lines, describe(e, box))
			}
		}
		return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "sandbox DELETED") })
	})
	want := []string{
		"sandbox CREATED: SANDBOX_READY []", "sandbox STARTED: SANDBOX_READY []",
		"container CREATED: SANDBOX_READY [CONTAINER_CREATED 0]", "container STARTED: SANDBOX_READY [CONTAINER_RUNNING 0]",
		"container STOPPED: SANDBOX_READY [CONTAINER_EXITED 3]", "container DELETED: SANDBOX_READY []",
		"sandbox STOPPED: SANDBOX_NOTREADY []", "sandbox DELETED: SANDBOX_NOTREADY []",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("\n got %s\nwant %s", strings.Join(lines, "\n     "), strings.Join(want, "\n     "))
	}
}

func describe(e *cri.ContainerEventResponse, box string) string {
	kind := "container"
	if e.ContainerId == box {
		kind = "sandbox"
	}
	var containers []string
	for _, c := range e.ContainersStatuses {
		containers = append(containers, fmt.Sprintf("%s %d", c.State, c.ExitCode))
	}
	name := strings.TrimSuffix(strings.TrimPrefix(e.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
	return fmt.Sprintf("%s %s: %s %v", kind, name, e.PodSandboxStatus.State, containers)
}
