package nri

import (
	"errors"
	"os"
	"reflect"
	"testing"
	"time"

	nri "github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
)

func TestResources(t *testing.T) {
	in := runtimeservice.Resources{
		CPUPeriod: 1, CPUQuota: 2, CPUShares: 3, MemoryLimit: 4, MemorySwap: 5, CPUSetCPUs: "0-1", CPUSetMems: "0",
		Hugepages: []runtimeservice.HugepageLimit{{PageSize: "2MB", Limit: 6}}, Unified: map[string]string{"memory.high": "7"},
	}
	out, err := fromResources(toResources(&in))
	if err != nil || !reflect.DeepEqual(in, out) {
		t.Errorf("%+v, %v", out, err)
	}
	if toResources(nil) != nil {
		t.Error("no resources became some")
	}
	for name, r := range map[string]*nri.LinuxResources{
		"pids": {Pids: &api.LinuxPids{Limit: 1}}, "devices": {Devices: []*nri.LinuxDeviceCgroup{{}}},
		"blockio": {BlockioClass: api.String("x")}, "reservation": {Memory: &nri.LinuxMemory{Reservation: api.Int64(1)}},
	} {
		if _, err := fromResources(r); !errors.Is(err, runtimeservice.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContainer(t *testing.T) {
	adj := 7
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"a"}, Env: []string{"B=c"}, OOMScoreAdj: &adj, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 2, Soft: 1}}},
		Mounts:  []specs.Mount{{Destination: "/d", Source: "/s", Type: "bind"}},
		Linux: &specs.Linux{
			CgroupsPath: "/p/c", Resources: &specs.LinuxResources{}, Sysctl: map[string]string{"x": "y"},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}},
		},
	}
	u := hooks.Unit{
		Container: runtimeservice.Container{
			ID: "c", SandboxID: "p", State: runtimeservice.ContainerRunning, Pid: 9, StartedAt: time.Unix(1, 0),
			Config: runtimeservice.ContainerConfig{
				Metadata: runtimeservice.ContainerMetadata{Name: "app"}, CDIDevices: []string{"v/c=d"},
				Security: runtimeservice.ContainerSecurity{Seccomp: &runtimeservice.Profile{Type: runtimeservice.ProfileLocalhost, Ref: "/x"}},
			},
		},
		Cgroup: "/elsewhere", Spec: func() (*specs.Spec, error) { return s, nil },
	}
	c, err := toContainer(u, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "app" || c.State != nri.ContainerState_CONTAINER_RUNNING || c.Pid != 9 || c.StartedAt != 1e9 || c.CreatedAt != 0 ||
		c.Args[0] != "a" || c.Env[0] != "B=c" || c.Mounts[0].Destination != "/d" || c.Rlimits[0].Soft != 1 || c.CDIDevices[0].Name != "v/c=d" {
		t.Errorf("%v", c)
	}
	l := c.Linux
	if l.OomScoreAdj.Value != 7 || l.CgroupsPath != "/p/c" || l.Sysctl["x"] != "y" || l.SeccompPolicy == nil || l.SeccompProfile.LocalhostRef != "/x" ||
		l.Namespaces[0].Type != "pid" {
		t.Errorf("%v", l)
	}
	u.Spec = func() (*specs.Spec, error) { return nil, os.ErrNotExist }
	if c, err := toContainer(u, nil); err != nil || c.Name != "app" {
		t.Errorf("a container without its specification: %v, %v", c, err)
	}
	u.Spec = func() (*specs.Spec, error) { return nil, errors.New("torn") }
	if _, err := toContainer(u, nil); err == nil {
		t.Error("a specification that cannot be read is no error")
	}
}
