package convert

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

func sandbox(edit func(*cri.PodSandboxConfig)) *cri.PodSandboxConfig {
	c := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "web", Uid: "u", Namespace: "shop", Attempt: 2},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
	edit(c)
	return c
}

// TestSandboxRefusals changes one thing at a time.
func TestSandboxRefusals(t *testing.T) {
	security := func(c *cri.PodSandboxConfig) *cri.LinuxSandboxSecurityContext { return c.Linux.SecurityContext }
	userns := func(m cri.NamespaceMode, uids, gids []*cri.IDMapping) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) {
			security(c).NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: m, Uids: uids, Gids: gids}
		}
	}
	one := []*cri.IDMapping{{HostId: 1000, Length: 65536}}
	for name, tc := range map[string]struct {
		edit func(*cri.PodSandboxConfig)
		ok   bool
	}{
		"as it is":           {func(*cri.PodSandboxConfig) {}, true},
		"no metadata":        {func(c *cri.PodSandboxConfig) { c.Metadata = nil }, false},
		"group without user": {func(c *cri.PodSandboxConfig) { security(c).RunAsGroup = &cri.Int64Value{Value: 1} }, false},
		"group with user": {func(c *cri.PodSandboxConfig) {
			security(c).RunAsUser, security(c).RunAsGroup = &cri.Int64Value{Value: 1}, &cri.Int64Value{Value: 1}
		}, true},
		"network of a target": {func(c *cri.PodSandboxConfig) { security(c).NamespaceOptions.Network = cri.NamespaceMode_TARGET }, false},
		"bad host address":    {func(c *cri.PodSandboxConfig) { c.PortMappings = []*cri.PortMapping{{HostIp: "x"}} }, false},
		"bad port":            {func(c *cri.PodSandboxConfig) { c.PortMappings = []*cri.PortMapping{{ContainerPort: 70000}} }, false},
		"userns":              {userns(cri.NamespaceMode_POD, one, one), true},
		"userns of the node":  {userns(cri.NamespaceMode_NODE, nil, nil), true},
		"node with mapping":   {userns(cri.NamespaceMode_NODE, one, one), false},
		"userns, container":   {userns(cri.NamespaceMode_CONTAINER, one, one), false},
		"two mappings":        {userns(cri.NamespaceMode_POD, append(one, one...), one), false},
		"no id 0":             {userns(cri.NamespaceMode_POD, []*cri.IDMapping{{ContainerId: 1, Length: 9}}, one), false},
		"old unknown seccomp": {func(c *cri.PodSandboxConfig) { security(c).SeccompProfilePath = "x" }, false},
		"old seccomp":         {func(c *cri.PodSandboxConfig) { security(c).SeccompProfilePath = "localhost/a" }, true},
	} {
		_, err := SandboxConfig(sandbox(tc.edit), "")
		if (err == nil) != tc.ok || (err != nil && !errors.Is(err, runtimeservice.ErrInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SandboxConfig(nil, ""); err == nil {
		t.Error("no configuration at all is accepted")
	}
}

func TestSandboxThereAndBack(t *testing.T) {
	in := sandbox(func(c *cri.PodSandboxConfig) {
		c.PortMappings = []*cri.PortMapping{{Protocol: cri.Protocol_UDP, ContainerPort: 53, HostPort: 5353, HostIp: "::1"}}
		c.Labels = map[string]string{"a": "b"}
	})
	config, err := SandboxConfig(in, "crun")
	if err != nil {
		t.Fatal(err)
	}
	if p := config.PortMappings[0]; p.Protocol != runtimeservice.UDP || p.HostIP.String() != "::1" {
		t.Errorf("%+v", p)
	}
	out := PodSandboxStatus(runtimeservice.Sandbox{ID: "1", Config: config, State: runtimeservice.SandboxReady})
	if out.State != cri.PodSandboxState_SANDBOX_READY || out.RuntimeHandler != "crun" ||
		out.Linux.Namespaces.Options.Pid != cri.NamespaceMode_CONTAINER || out.Metadata.Attempt != 2 {
		t.Errorf("%v", out)
	}
}

func container(edit func(*cri.ContainerConfig)) *cri.ContainerConfig {
	c := &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: "sha256:1"}}
	edit(c)
	return c
}

func TestContainerRefusals(t *testing.T) {
	mount := func(m *cri.Mount) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{m} }
	}
	for name, tc := range map[string]struct {
		edit func(*cri.ContainerConfig)
		ok   bool
	}{
		"as it is":        {func(*cri.ContainerConfig) {}, true},
		"no name":         {func(c *cri.ContainerConfig) { c.Metadata.Name = "" }, false},
		"no image":        {func(c *cri.ContainerConfig) { c.Image = nil }, false},
		"any byte in env": {func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte{0xff, '\n'}}} }, true},
		"NUL in env":      {func(c *cri.ContainerConfig) { c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte{0}}} }, false},
		"mount":           {mount(&cri.Mount{ContainerPath: "/a", HostPath: "/b"}), true},
		"image mount":     {mount(&cri.Mount{ContainerPath: "/a", Readonly: true, Image: &cri.ImageSpec{Image: "x"}}), true},
		"no host path":    {mount(&cri.Mount{ContainerPath: "/a"}), false},
		"rro":             {mount(&cri.Mount{ContainerPath: "/a", HostPath: "/b", Readonly: true, RecursiveReadOnly: true}), true},
		"rro but rw":      {mount(&cri.Mount{ContainerPath: "/a", HostPath: "/b", RecursiveReadOnly: true}), false},
		"rro but shared": {mount(&cri.Mount{ContainerPath: "/a", HostPath: "/b", Readonly: true, RecursiveReadOnly: true,
			Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}), false},
		"unknown signal": {func(c *cri.ContainerConfig) { c.StopSignal = 99 }, false},
	} {
		_, err := ContainerConfig(container(tc.edit))
		if (err == nil) != tc.ok || (err != nil && !errors.Is(err, runtimeservice.ErrInvalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSignals takes every signal of CRI there and back.
func TestSignals(t *testing.T) {
	for n, name := range cri.Signal_name {
		ours, err := stopSignal(cri.Signal(n))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if back := criSignal(ours); ours != "" && back != cri.Signal(n) {
			t.Errorf("%s → %q → %s", name, ours, back)
		}
	}
	if s, _ := stopSignal(cri.Signal_SIGNAL_SIGRTMINPLUS3); s != "SIGRTMIN+3" {
		t.Error(s)
	}
}

func TestResourcesThereAndBack(t *testing.T) {
	in := &cri.LinuxContainerResources{
		CpuPeriod: 1, CpuQuota: -1, CpuShares: 3, MemoryLimitInBytes: 4, OomScoreAdj: 5, CpusetCpus: "0-1", CpusetMems: "0",
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 6}}, Unified: map[string]string{"a": "b"}, MemorySwapLimitInBytes: 7,
	}
	if diff := cmp.Diff(in.String(), criResources(Resources(in)).String()); diff != "" {
		t.Error(diff)
	}
}

func TestStateFilter(t *testing.T) {
	f := ContainerFilter(&cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_EXITED}})
	if f.State != string(runtimeservice.ContainerExited) {
		t.Error(f)
	}
	if f := ContainerFilter(nil); f.State != "" {
		t.Error(f)
	}
	if f := SandboxFilter(&cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_NOTREADY}}); f.State != string(runtimeservice.SandboxNotReady) {
		t.Error(f)
	}
}
