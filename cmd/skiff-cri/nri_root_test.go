//go:build root

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is an NRI plugin that notes what it is told, and does what the test sets.
type plugin struct {
	mu     sync.Mutex
	events []string
	joined chan []string // ids of the containers it was told of when it joined

	adjust func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error)
	resize func(r *api.LinuxResources) []*api.ContainerUpdate
	veto   func(event string) error
	stub   stub.Stub
}

func (p *plugin) note(event, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, event+" "+id[:8])
	if p.veto != nil {
		return p.veto(event)
	}
	return nil
}

// told are the events so far about an object.
func (p *plugin) told(id string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, e := range p.events {
		if name, about, _ := strings.Cut(e, " "); about == id[:8] {
			out = append(out, name)
		}
	}
	return out
}

func (p *plugin) Synchronize(_ context.Context, _ []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	var ids []string
	for _, c := range containers {
		ids = append(ids, c.Id)
	}
	p.joined <- ids
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	if len(pod.Ips) == 0 || pod.Linux.CgroupParent == "" || len(pod.Linux.Namespaces) == 0 {
		return fmt.Errorf("the pod is shown without address, cgroup or namespace: %v", pod)
	}
	return p.note("RunPodSandbox", pod.Id)
}
func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("StopPodSandbox", pod.Id)
}
func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("RemovePodSandbox", pod.Id)
}
func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, r *api.LinuxResources) error {
	return p.note(fmt.Sprint("UpdatePodSandbox:", r.GetCpu().GetShares().GetValue()), pod.Id)
}
func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.note("PostUpdatePodSandbox", pod.Id)
}
func (p *plugin) CreateContainer(_ context.Context, pod *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if pod.Id != c.PodSandboxId || len(c.Args) == 0 || len(c.Mounts) == 0 || c.Linux.Resources == nil {
		return nil, nil, fmt.Errorf("the container is shown without its specification: %v", c)
	}
	if err := p.note("CreateContainer", c.Id); err != nil || p.adjust == nil {
		return nil, nil, err
	}
	return p.adjust(c)
}
func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.note("PostCreateContainer", c.Id)
}
func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.note("StartContainer", c.Id)
}
func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	if c.Pid == 0 || c.State != api.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("a started container is shown without a process: %v", c)
	}
	return p.note("PostStartContainer", c.Id)
}
func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.note("UpdateContainer", c.Id); err != nil || p.resize == nil {
		return nil, err
	}
	return p.resize(r), nil
}
func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.note("PostUpdateContainer", c.Id)
}
func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.note("StopContainer", c.Id)
}
func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.note("RemoveContainer", c.Id)
}

// join connects the plugin, and returns the containers it was told of.
func (h *host) join(p *plugin, index string) []string {
	h.Helper()
	p.joined = make(chan []string, 1)
	s, err := stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx(index), stub.WithSocketPath(filepath.Join(h.dir, "run", "nri.sock")), stub.WithOnClose(func() {}))
	if err != nil {
		h.Fatal(err)
	}
	p.stub = s
	if err := s.Start(h.Context()); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(s.Stop)
	return <-p.joined
}

func TestPluginsAreTold(t *testing.T) {
	h := newHost(t)
	early := h.sandboxConfig("early")
	earlyID := h.start(h.runSandbox(early), containerConfig("app", "sleep 1000"), early)
	p := &plugin{}
	if ids := h.join(p, "10"); !slices.Equal(ids, []string{earlyID}) {
		t.Errorf("the plugin that joins is told of %v", ids)
	}
	config := h.sandboxConfig("web")
	box := h.runSandbox(config)
	id := h.start(box, containerConfig("app", "sleep 1000"), config)
	if _, err := h.runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 300},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: box, Resources: &cri.LinuxContainerResources{CpuShares: 700},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := h.runtime.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: box}); err != nil {
			t.Fatal(err)
		}
	}
	h.remove(box)
	want := "CreateContainer PostCreateContainer StartContainer PostStartContainer UpdateContainer PostUpdateContainer StopContainer RemoveContainer"
	if got := strings.Join(p.told(id), " "); got != want {
		t.Errorf("container:\n got %s\nwant %s", got, want)
	}
	want = "RunPodSandbox UpdatePodSandbox:700 PostUpdatePodSandbox StopPodSandbox RemovePodSandbox"
	if got := strings.Join(p.told(box), " "); got != want {
		t.Errorf("sandbox:\n got %s\nwant %s", got, want)
	}
	// One that ends by itself is told of too.
	brief := h.sandboxConfig("brief")
	briefID := h.start(h.runSandbox(brief), containerConfig("app", "exit 3"), brief)
	h.until("the end is told", func() bool { return slices.Contains(p.told(briefID), "StopContainer") })
}

func TestPluginsAdjust(t *testing.T) {
	h := newHost(t)
	shared := filepath.Join(h.dir, "shared")
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
		a := &api.ContainerAdjustment{}
		a.AddEnv("FROM_PLUGIN", "yes")
		a.AddAnnotation("plugin", "was here")
		a.AddMount(&api.Mount{Source: shared, Destination: "/shared", Type: "bind", Options: []string{"rbind", "rw"}})
		a.AddDevice(&api.LinuxDevice{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: api.FileMode(os.FileMode(0o666))})
		a.AddRlimit("RLIMIT_NOFILE", 512, 256)
		a.SetLinuxCPUShares(555)
		a.SetLinuxMemoryLimit(48 << 20)
		a.SetLinuxOomScoreAdj(api.Int(900).Get())
		a.SetArgs([]string{"sh", "-c", "echo $FROM_PLUGIN > /shared/out; sleep 1000"})
		return a, nil, nil
	}}
	h.join(p, "10")
	config := h.sandboxConfig("adjusted")
	id := h.start(h.runSandbox(config), containerConfig("app", "exit 9"), config)
	h.until("the adjusted command has run", func() bool {
		text, _ := os.ReadFile(filepath.Join(shared, "out"))
		return string(text) == "yes\n"
	})
	if got := h.exec(id, "sh", "-c", "ulimit -n; cat /proc/1/oom_score_adj; ls /dev/mine"); got != "256\n900\n/dev/mine\n" {
		t.Errorf("%q", got)
	}
	list, err := h.runtime.ListPodSandboxMetrics(t.Context(), &cri.ListPodSandboxMetricsRequest{})
	if err != nil || len(list.PodMetrics) != 1 {
		t.Fatalf("%v, %v", list, err)
	}

	// An update at the plugin's own wish, and one that it changes on its way.
	failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{update(id, 200), update("no-such-container", 1)})
	if err != nil || len(failed) != 0 {
		t.Errorf("%v, %v", failed, err)
	}
	if shares := h.shares(id); shares != 200 {
		t.Errorf("shares %d after the plugin's update", shares)
	}
	p.resize = func(r *api.LinuxResources) []*api.ContainerUpdate {
		return []*api.ContainerUpdate{update(id, r.GetCpu().GetShares().GetValue()*2)}
	}
	if _, err := h.runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 300},
	}); err != nil {
		t.Fatal(err)
	}
	if shares := h.shares(id); shares != 600 {
		t.Errorf("shares %d after an update that the plugin doubles", shares)
	}
}

func update(id string, shares uint64) *api.ContainerUpdate {
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxCPUShares(shares)
	return u
}

// shares is what the record says, which changes only when the cgroup has.
func (h *host) shares(id string) int64 {
	h.Helper()
	return h.status(id).GetResources().GetLinux().GetCpuShares()
}

// TestPluginsVeto: what a plugin refuses is undone, told to it as removed, and can be tried again.
func TestPluginsVeto(t *testing.T) {
	h := newHost(t)
	refuse := ""
	p := &plugin{}
	p.veto = func(event string) error {
		if event == refuse {
			return errors.New("not today")
		}
		return nil
	}
	h.join(p, "10")
	set := func(event string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		refuse = event
	}
	config := h.sandboxConfig("veto")
	set("RunPodSandbox")
	if _, err := h.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config}); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("%v", err)
	}
	set("")
	list, err := h.runtime.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	box := h.runSandbox(config)
	set("CreateContainer")
	request := &cri.CreateContainerRequest{PodSandboxId: box, Config: containerConfig("app", "sleep 1000"), SandboxConfig: config}
	if _, err := h.runtime.CreateContainer(t.Context(), request); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("%v", err)
	}
	set("StartContainer")
	r, err := h.runtime.CreateContainer(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: r.ContainerId}); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Errorf("%v", err)
	}
	set("")
	if s := h.status(r.ContainerId); s.State != cri.ContainerState_CONTAINER_EXITED || !strings.Contains(s.Message, "not today") {
		t.Errorf("%v", s)
	}
	h.remove(box)
	h.nothingLeft()
}

// TestPluginJoinsAfterRestart: a server that comes back tells plugins of the containers that ran on.
func TestPluginJoinsAfterRestart(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("lasting")
	id := h.start(h.runSandbox(config), containerConfig("app", "sleep 1000"), config)
	h.kill()
	h.up()
	p := &plugin{}
	if ids := h.join(p, "10"); !slices.Equal(ids, []string{id}) {
		t.Errorf("told of %v", ids)
	}
	if _, err := h.runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if got := p.told(id); !slices.Equal(got, []string{"StopContainer"}) {
		t.Errorf("%v", got)
	}
}

// asPlugin makes the test binary behave as an NRI plugin that the runtime starts.
const asPlugin = "SKIFF_CRI_TEST_PLUGIN"

// preinstalled gives each container the environment variable that its configuration names.
type preinstalled struct{ variable string }

func (p *preinstalled) Configure(_ context.Context, config, _, _ string) (stub.EventMask, error) {
	p.variable = strings.TrimSpace(config)
	return 0, nil
}

func (p *preinstalled) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a := &api.ContainerAdjustment{}
	a.AddEnv(p.variable, "set")
	return a, nil, nil
}

func runPlugin() {
	s, err := stub.New(&preinstalled{})
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestPreinstalledPlugin: an executable in the plugin directory is started with the server, gets its configuration, and
// ends with the server.
func TestPreinstalledPlugin(t *testing.T) {
	h := newHost(t)
	text, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	h.kill()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pids := filepath.Join(h.dir, "plugin.pid")
	for path, content := range map[string]string{
		"plugins/10-env":     fmt.Sprintf("#!/bin/sh\necho $$ > %s\nexec env %s=1 %s\n", pids, asPlugin, self),
		"conf.d/10-env.conf": "FROM_CONFIG\n",
	} {
		path = filepath.Join(h.dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text = fmt.Appendf(text, "[nri]\nplugin_dir = %q\nconfig_dir = %q\nregistration_timeout_seconds = 60\nrequest_timeout_seconds = 60\n", filepath.Join(h.dir, "plugins"), filepath.Join(h.dir, "conf.d"))
	if err := os.WriteFile(h.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	h.up()
	config := h.sandboxConfig("pre")
	id := h.start(h.runSandbox(config), containerConfig("app", "sleep 1000"), config)
	if got := h.exec(id, "sh", "-c", "echo $FROM_CONFIG"); got != "set\n" {
		t.Errorf("%q", got)
	}
	pid, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	h.kill()
	h.until("the plugin ends with its runtime", func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)))
		return err != nil
	})
}

// TestWatchdogNamesTheStep: a call that hangs in a plugin is named with the step it is in, while it hangs.
func TestWatchdogNamesTheStep(t *testing.T) {
	h := newHost(t)
	text, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	h.kill()
	text = append(text, "[monitor]\nstuck_after_seconds = 1\n[nri]\nrequest_timeout_seconds = 60\n"...)
	if err := os.WriteFile(h.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	h.up()
	let := make(chan struct{})
	p := &plugin{}
	h.join(p, "10")
	p.veto = func(event string) error {
		if event == "RunPodSandbox" {
			<-let
		}
		return nil
	}
	config := h.sandboxConfig("stuck")
	done := make(chan error, 1)
	go func() {
		_, err := h.runtime.RunPodSandbox(context.Background(), &cri.RunPodSandboxRequest{Config: config})
		done <- err
	}()
	h.until("the watchdog speaks", func() bool {
		return strings.Contains(h.log(), `msg="a call takes long" call=RunPodSandbox`) && strings.Contains(h.log(), `ask plugins: run sandbox`)
	})
	out, err := h.output("calls")
	if err != nil || !strings.Contains(out, "ask plugins: run sandbox") || !strings.Contains(out, "pod=test/stuck") || !strings.Contains(out, "takes long") {
		t.Errorf("%s, %v", out, err)
	}
	close(let)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
