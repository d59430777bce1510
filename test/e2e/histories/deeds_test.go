//go:build e2e

package histories

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod/historytest"
	"github.com/skiff-node/skiff/test/harness"
)

// plannedCall waits for a call that the script tells the end of, and counts it as one that the script has.
func (h *history) plannedCall(what string, is func(*call) bool) *call {
	h.Helper()
	c := h.inFlight(what, is)
	h.mu.Lock()
	c.planned = true
	h.mu.Unlock()
	return c
}

// sandbox lets the making or the stopping of a sandbox go on, or ends it behind the kubelet's back.
func (h *history) sandbox(state string) {
	h.Helper()
	if state == "ready" {
		c := h.plannedCall("a sandbox is made", func(c *call) bool { return c.kind == makeSandbox })
		h.finish(func(o *call) bool { return o == c })
		return
	}
	h.mu.Lock()
	stopping := slices.ContainsFunc(h.calls, func(c *call) bool { return c.kind == stopSandbox && !c.over() })
	var id string
	for _, c := range h.calls {
		if c.kind == makeSandbox && c.over() {
			id = c.id
		}
	}
	h.mu.Unlock()
	if stopping {
		h.finish(func(c *call) bool { return c.kind == stopSandbox })
		return
	}
	if _, err := h.n.runtime.StopPodSandbox(context.Background(), &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		h.Fatal(err)
	}
}

// start lets a container be created and started, or one of both.
func (h *history) start(command, name string) {
	h.Helper()
	h.cure(name)
	of := func(k kind) func(*call) bool { return func(c *call) bool { return c.kind == k && c.container == name } }
	if command != "start" {
		c := h.plannedCall(name+" is pulled or created", func(c *call) bool { return of(createOne)(c) || of(pullImage)(c) })
		if c.kind == pullImage {
			h.finish(func(o *call) bool { return o == c })
			c = h.plannedCall(name+" is created", of(createOne))
		}
		attempt := h.earlier(name)
		for _, w := range h.wanted {
			if w.kind == createOne && w.container == name {
				attempt = w.attempt
			}
		}
		if !slices.ContainsFunc(h.wanted, func(w want) bool { return w.container == name }) && c.attempt >= attempt {
			attempt = c.attempt // as the plan has it, which was asked already
		}
		if c.attempt != attempt {
			h.Fatalf("%s is started as attempt %d, want %d", name, c.attempt, attempt)
		}
		h.finish(func(o *call) bool { return o == c })
		h.instances = append(h.instances, name+" "+c.id)
	}
	if command == "create" {
		return
	}
	c := h.plannedCall(name+" is started", of(startOne))
	h.finish(func(o *call) bool { return o == c })
	_, pid := h.inspect(c.id)
	harness.Eventually(h, patience, name+" is ready for orders", func() (bool, string) {
		_, err := os.Stat(orders(pid))
		return err == nil, fmt.Sprint(err)
	})
	if l := find(h.script.Pod, name); l != nil && l.Lifecycle != nil && l.Lifecycle.PostStart != nil && (h.next() == nil || h.next()[0] != "poststart") {
		h.postStart(name, "begun")
		h.postStart(name, "ok")
	}
}

// next is the script's next command; nil at its end.
func (h *history) next() []string {
	for _, l := range h.script.Lines[h.at+1:] {
		if len(l.Command) > 0 {
			return l.Command
		}
	}
	return nil
}

// postStart waits until the hook runs, or tells it its end.
func (h *history) postStart(name, what string) {
	h.Helper()
	c := h.plannedCall("the hook of "+name, func(c *call) bool { return c.kind == runHook && c.container == name })
	if what == "begun" {
		return
	}
	h.order(h.newest(name), "poststart="+strings.TrimSuffix(what, "ed"))
	h.ended(c)
}

// preStop ends the hook.
func (h *history) preStop(name string) {
	h.Helper()
	c := h.inFlight("the hook of "+name, func(c *call) bool { return c.kind == runHook && c.container == name })
	h.order(h.newest(name), "prestop=ok")
	h.ended(c)
}

func (h *history) ended(c *call) {
	h.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		h.Fatalf("%s %s does not end", c.kind, c.container)
	}
}

// fault lets what fails go on: a pull, or a start.
func (h *history) fault(name, reason string) {
	h.Helper()
	k := map[string]kind{"ErrImagePull": pullImage, "RunContainerError": startOne}[reason]
	if k == "" {
		return // it fails before the runtime is asked
	}
	c := h.plannedCall(name+" fails", func(c *call) bool { return c.kind == k && c.container == name })
	h.mu.Lock()
	h.let(c)
	h.mu.Unlock()
	h.ended(c)
	if c.err == nil {
		h.Fatalf("%s %s does not fail", k, name)
	}
}

// newest instance of a container.
func (h *history) newest(name string) string {
	h.Helper()
	for _, i := range slices.Backward(h.instances) {
		if have, id, _ := strings.Cut(i, " "); have == name {
			return id
		}
	}
	h.Fatalf("no container %s", name)
	return ""
}

// container asks the runtime about a container, and for its process.
func (h *history) inspect(id string) (state cri.ContainerState, pid int) {
	h.Helper()
	answer, err := h.n.runtime.ContainerStatus(context.Background(), &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		h.Fatal(err)
	}
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(answer.Info["info"]), &info); err != nil {
		h.Fatal(err)
	}
	return answer.Status.State, info.PID
}

// exit ends a container, and waits until the runtime knows.
func (h *history) exit(name, code string, options []string) {
	h.Helper()
	id := h.newest(name)
	state, pid := h.inspect(id)
	switch {
	case state == cri.ContainerState_CONTAINER_EXITED:
		return
	case slices.Contains(options, "reason=StartError"):
		return // it has never run
	case slices.Contains(options, "reason=OOMKilled"):
		h.order(id, "eat")
	case code == "137":
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			h.Fatal(err)
		}
	default:
		order := "exit " + code
		for _, o := range options {
			order += " " + strings.TrimPrefix(o, "message=")
		}
		h.order(id, order)
	}
	harness.Eventually(h, patience, name+" has ended", func() (bool, string) {
		state, _ := h.inspect(id)
		return state == cri.ContainerState_CONTAINER_EXITED, state.String()
	})
}

// orders is where the program of a process takes them.
func orders(pid int) string { return fmt.Sprintf("/proc/%d/root/orders.sock", pid) }

// order tells the program of a container what to do.
func (h *history) order(id, text string) {
	h.Helper()
	_, pid := h.inspect(id)
	harness.Eventually(h, patience, "the program obeys", func() (bool, string) {
		c, err := net.Dial("unix", orders(pid))
		if err != nil {
			return false, err.Error()
		}
		defer c.Close()
		if _, err := fmt.Fprintln(c, text); err != nil {
			return false, err.Error()
		}
		bufio.NewReader(c).ReadString('\n') // it may have no time left to answer
		return true, ""
	})
}

// remove takes an ended container out of the runtime behind the kubelet's back.
func (h *history) remove(name string) {
	h.Helper()
	if _, err := h.n.runtime.RemoveContainer(context.Background(), &cri.RemoveContainerRequest{ContainerId: h.newest(name)}); err != nil {
		h.Fatal(err)
	}
}

func (h *history) delete(grace string) {
	h.Helper()
	seconds, err := strconv.ParseInt(grace, 10, 64)
	if err != nil {
		h.Fatal(err)
	}
	h.deleted = true
	if err := h.n.client.CoreV1().Pods(h.ns).Delete(context.Background(), h.script.Pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &seconds}); err != nil {
		h.Fatal(err)
	}
}

// set changes the pod in the API.
func (h *history) set(field, value string) {
	h.Helper()
	what, name, _ := strings.Cut(field, ".")
	switch what {
	case "image":
		h.patch(h.inSpec(name, map[string]any{"image": otherImage}))
	case "condition":
		h.patch(map[string]any{"status": map[string]any{"conditions": []any{map[string]any{"type": name, "status": value, "lastTransitionTime": metav1.Now()}}}}, "status")
	case "phase":
		h.patch(map[string]any{"status": map[string]any{"phase": value}}, "status")
	case "ephemeral":
		h.addEphemeral(value, "")
	default:
		h.Fatalf("set %s cannot be done", field)
	}
}

// grant changes the resources that the pod desires.
func (h *history) grant(name string, list []string) {
	h.Helper()
	r := historytest.Resources(list)
	h.patch(h.inSpec(name, map[string]any{"resources": map[string]any{"requests": r.Requests, "limits": r.Limits}}), "resize")
}

// inSpec is a patch of one container.
func (h *history) inSpec(name string, change map[string]any) map[string]any {
	change["name"] = name
	list := "containers"
	for _, c := range h.script.Pod.Spec.InitContainers {
		if c.Name == name {
			list = "initContainers"
		}
	}
	return map[string]any{"spec": map[string]any{list: []any{change}}}
}

func (h *history) patch(change map[string]any, subresource ...string) {
	h.Helper()
	text, err := json.Marshal(change)
	if err != nil {
		h.Fatal(err)
	}
	if _, err := h.n.client.CoreV1().Pods(h.ns).Patch(context.Background(), h.script.Pod.Name, types.StrategicMergePatchType, text, metav1.PatchOptions{}, subresource...); err != nil {
		h.Fatal(err)
	}
}

func (h *history) addEphemeral(name, target string) {
	h.Helper()
	e := corev1.EphemeralContainer{TargetContainerName: target}
	e.Name, e.Image, e.Args = name, probeImage, []string{"obey"}
	h.patch(map[string]any{"spec": map[string]any{"ephemeralContainers": []any{e}}}, "ephemeralcontainers")
}

// evict makes the kubelet end the pod: it fills a volume beyond its limit, and a static pod loses its file.
func (h *history) evict() {
	h.Helper()
	if h.static {
		h.cease()
		return
	}
	h.order(h.newest(h.script.Pod.Spec.Containers[0].Name), "fill /deck/cargo 2")
}

// cease takes a static pod's file away.
func (h *history) cease() {
	if h.static {
		if _, err := h.n.h.Run("rm", "-f", h.file()); err != nil {
			h.Error(err)
		}
	}
}

// fits tells whether the resources that the runtime is told are those in the script's words.
func fits(got *cri.LinuxContainerResources, words string) bool {
	want := historytest.Resources(strings.Fields(words))
	if cpu, ok := want.Limits[corev1.ResourceCPU]; ok && got.GetCpuQuota() != 0 && got.GetCpuPeriod() != 0 {
		if milli := float64(got.CpuQuota) / float64(got.CpuPeriod) * 1000; math.Abs(milli-float64(cpu.MilliValue())) > 1 {
			return false
		}
	}
	if memory, ok := want.Limits[corev1.ResourceMemory]; ok && got.GetMemoryLimitInBytes() != 0 {
		return got.GetMemoryLimitInBytes() == memory.Value()
	}
	return true
}
