package main

import (
	"errors"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/admit"
)

// TestBadRequests changes one thing of a good request at a time. Each is refused as invalid, by the name of the field.
func TestBadRequests(t *testing.T) {
	type box = *cri.PodSandboxConfig
	type unit = *cri.ContainerConfig
	id := func(v int64) *cri.Int64Value { return &cri.Int64Value{Value: v} }
	ids := func(host, inside, length uint32) []*cri.IDMapping {
		return []*cri.IDMapping{{HostId: host, ContainerId: inside, Length: length}}
	}
	users := func(mode cri.NamespaceMode, uids, gids []*cri.IDMapping) func(box) {
		return func(c box) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &cri.UserNamespace{Mode: mode, Uids: uids, Gids: gids}
		}
	}
	mount := func(m *cri.Mount) func(unit) {
		return func(c unit) {
			if m.ContainerPath == "" && m.HostPath == "" {
				m.HostPath = "/h"
			} else if m.ContainerPath == "" {
				m.ContainerPath = "/c"
			}
			c.Mounts = []*cri.Mount{m}
		}
	}
	at := func(m *cri.Mount) func(unit) { m.ContainerPath = "/c"; return mount(m) }
	device := func(d *cri.Device) func(unit) { return func(c unit) { c.Devices = []*cri.Device{d} } }
	security := func(edit func(*cri.LinuxContainerSecurityContext)) func(unit) {
		return func(c unit) { edit(c.Linux.SecurityContext) }
	}
	limits := func(r *cri.LinuxContainerResources) func(unit) {
		return func(c unit) { c.Linux.Resources = r }
	}
	options := func(o *cri.NamespaceOption) func(unit) {
		return security(func(s *cri.LinuxContainerSecurityContext) { s.NamespaceOptions = o })
	}
	boxes := []struct {
		field string
		edit  func(box)
	}{
		{"config.metadata", func(c box) { c.Metadata = nil }},
		{"config.metadata", func(c box) { c.Metadata.Name = "" }},
		{"config.metadata", func(c box) { c.Metadata.Namespace = "" }},
		{"config.metadata", func(c box) { c.Metadata.Uid = "" }},
		{"config.hostname", func(c box) { c.Hostname = strings.Repeat("a", 65) }},
		{"config.hostname", func(c box) { c.Hostname = "a\nb" }},
		{"config.log_directory", func(c box) { c.LogDirectory = "logs" }},
		{"config.dns_config.servers[0]", func(c box) { c.DnsConfig = &cri.DNSConfig{Servers: []string{"1.1.1.1\nnameserver 2.2.2.2"}} }},
		{"config.dns_config.searches[1]", func(c box) { c.DnsConfig = &cri.DNSConfig{Searches: []string{"a", ""}} }},
		{"config.port_mappings[0].protocol", func(c box) { c.PortMappings = []*cri.PortMapping{{Protocol: 9}} }},
		{"config.port_mappings[0]", func(c box) { c.PortMappings = []*cri.PortMapping{{ContainerPort: 65536}} }},
		{"config.port_mappings[0]", func(c box) { c.PortMappings = []*cri.PortMapping{{HostPort: -1}} }},
		{"config.port_mappings[0].host_ip", func(c box) { c.PortMappings = []*cri.PortMapping{{HostIp: "here"}} }},
		{"config.linux.sysctls", func(c box) { c.Linux.Sysctls = map[string]string{"kernel.panic": "1"} }},
		{"config.linux.sysctls", func(c box) {
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
			c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
		}},
		{"namespace_options.network", func(c box) { c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_TARGET }},
		{"namespace_options.ipc", func(c box) { c.Linux.SecurityContext.NamespaceOptions.Ipc = 9 }},
		{"namespace_options.pid", func(c box) { c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_TARGET }},
		{"userns_options.mode", users(cri.NamespaceMode_CONTAINER, nil, nil)},
		{"userns_options.mode", users(cri.NamespaceMode_TARGET, nil, nil)},
		{"userns_options", users(cri.NamespaceMode_NODE, ids(1, 0, 1), nil)},
		{"userns_options", users(cri.NamespaceMode_POD, nil, nil)},
		{"userns_options", users(cri.NamespaceMode_POD, append(ids(1, 0, 1), ids(9, 1, 1)...), ids(1, 0, 1))},
		{"userns_options", users(cri.NamespaceMode_POD, ids(1, 1, 1), ids(1, 0, 1))},
		{"userns_options.uids", users(cri.NamespaceMode_POD, ids(1, 0, 0), ids(1, 0, 1))},
		{"userns_options.gids", users(cri.NamespaceMode_POD, ids(1, 0, 1), ids(1<<31, 0, 1<<31+1))},
		{"namespace_options.pid", func(c box) {
			users(cri.NamespaceMode_POD, ids(1, 0, 9), ids(1, 0, 9))(c)
			c.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_NODE
		}},
		{"security_context.run_as_group", func(c box) { c.Linux.SecurityContext.RunAsGroup = id(1) }},
		{"security_context.run_as_user", func(c box) { c.Linux.SecurityContext.RunAsUser = id(-1) }},
		{"security_context.seccomp", func(c box) { c.Linux.SecurityContext.SeccompProfilePath = "custom" }},
	}
	for _, tc := range boxes {
		c := goodSandbox()
		tc.edit(c)
		out, err := convert.SandboxConfig(c, "")
		if err == nil {
			err = admit.Sandbox(out)
		}
		refused(t, tc.field, err)
	}
	units := []struct {
		field string
		edit  func(unit)
	}{
		{"config.metadata.name", func(c unit) { c.Metadata = nil }},
		{"config.image", func(c unit) { c.Image = nil }},
		{"config.working_dir", func(c unit) { c.WorkingDir = "home" }},
		{"config.stdin_once", func(c unit) { c.StdinOnce = true }},
		{"config.log_path", func(c unit) { c.LogPath = "../../etc/cron.d/x" }},
		{"config.envs[0]", func(c unit) { c.Envs = []*cri.KeyValue{{Key: "A=B"}} }},
		{"config.envs[1]", func(c unit) { c.Envs = []*cri.KeyValue{{Key: "A"}, {Value: []byte("x")}} }},
		{"config.stop_signal", func(c unit) { c.StopSignal = 99 }},
		{"config.mounts[0].container_path", mount(&cri.Mount{})},
		{"config.mounts[0].host_path", at(&cri.Mount{})},
		{"config.mounts[0].host_path", at(&cri.Mount{HostPath: "/h", Readonly: true, Image: &cri.ImageSpec{Image: "i"}})},
		{"config.mounts[0].propagation", at(&cri.Mount{HostPath: "/h", Propagation: 7})},
		{"config.mounts[0].readonly", at(&cri.Mount{Image: &cri.ImageSpec{Image: "i"}})},
		{"config.mounts[0].image.image", at(&cri.Mount{Readonly: true, Image: &cri.ImageSpec{}})},
		{"config.mounts[0].image_sub_path", at(&cri.Mount{HostPath: "/h", ImageSubPath: "x"})},
		{"config.mounts[0].recursive_read_only", at(&cri.Mount{HostPath: "/h", RecursiveReadOnly: true})},
		{"config.mounts[0].recursive_read_only", at(&cri.Mount{
			HostPath: "/h", Readonly: true, RecursiveReadOnly: true, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		})},
		{"config.mounts[0].mount_options[1]", at(&cri.Mount{HostPath: "/h", MountOptions: []string{"noexec", "rw"}})},
		{"config.mounts[0].mount_options[0]", at(&cri.Mount{HostPath: "/h", MountOptions: []string{"suid"}})},
		{"config.mounts[0]", at(&cri.Mount{HostPath: "/h", UidMappings: ids(1, 0, 1)})},
		{"config.devices[0].host_path", device(&cri.Device{ContainerPath: "/dev/a"})},
		{"config.devices[0].container_path", device(&cri.Device{HostPath: "/dev/null", ContainerPath: "a"})},
		{"config.devices[0].permissions", device(&cri.Device{HostPath: "/dev/null", ContainerPath: "/dev/a", Permissions: "rx"})},
		{"config.CDI_devices[0].name", func(c unit) { c.CDIDevices = []*cri.CDIDevice{{}} }},
		{"security_context.run_as_group", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsGroup = id(1) })},
		{"security_context.run_as_user", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser = id(1 << 32) })},
		{"security_context.run_as_username", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsUsername = id(1), "x" })},
		{"security_context.supplemental_groups[0]", security(func(s *cri.LinuxContainerSecurityContext) { s.SupplementalGroups = []int64{-5} })},
		{"security_context.supplemental_groups_policy", security(func(s *cri.LinuxContainerSecurityContext) { s.SupplementalGroupsPolicy = 5 })},
		{"security_context.privileged", security(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true })},
		{"security_context.seccomp", security(func(s *cri.LinuxContainerSecurityContext) { s.Seccomp = &cri.SecurityProfile{ProfileType: 8} })},
		{"security_context.seccomp.localhost_ref", security(func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost}
		})},
		{"security_context.apparmor", security(func(s *cri.LinuxContainerSecurityContext) { s.ApparmorProfile = "mine" })},
		{"userns_options", options(&cri.NamespaceOption{UsernsOptions: &cri.UserNamespace{Uids: ids(1, 0, 1), Gids: ids(1, 0, 1)}})},
		{"resources.cpu_quota", limits(&cri.LinuxContainerResources{CpuQuota: -2})},
		{"resources.cpu_period", limits(&cri.LinuxContainerResources{CpuPeriod: -1})},
		{"resources.cpu_shares", limits(&cri.LinuxContainerResources{CpuShares: -1})},
		{"resources.memory_limit_in_bytes", limits(&cri.LinuxContainerResources{MemoryLimitInBytes: -2})},
		{"resources.memory_swap_limit_in_bytes", limits(&cri.LinuxContainerResources{MemorySwapLimitInBytes: 1})},
		{"resources.memory_swap_limit_in_bytes", limits(&cri.LinuxContainerResources{MemoryLimitInBytes: 2, MemorySwapLimitInBytes: 1})},
		{"resources.oom_score_adj", limits(&cri.LinuxContainerResources{OomScoreAdj: 1001})},
		{"resources.cpuset_cpus", limits(&cri.LinuxContainerResources{CpusetCpus: "all"})},
		{"resources.cpuset_mems", limits(&cri.LinuxContainerResources{CpusetMems: "0x1"})},
		{"resources.unified", limits(&cri.LinuxContainerResources{Unified: map[string]string{"../cgroup.procs": "1"}})},
		{"resources.unified", limits(&cri.LinuxContainerResources{Unified: map[string]string{"cgroup.procs": "1"}})},
	}
	pod, err := convert.SandboxConfig(goodSandbox(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range units {
		c := goodContainer()
		tc.edit(c)
		out, err := convert.ContainerConfig(c)
		if err == nil {
			err = admit.Container(pod, out)
		}
		refused(t, tc.field, err)
	}
	if len(boxes)+len(units) < 40 {
		t.Error("the table has shrunk")
	}
}

func refused(t *testing.T, field string, err error) {
	t.Helper()
	if !errors.Is(err, runtimeservice.ErrInvalid) || !strings.Contains(err.Error(), field) {
		t.Errorf("%s: %v", field, err)
	}
}

func goodSandbox() *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "web", Uid: "u", Namespace: "shop", Attempt: 2},
		LogDirectory: "/var/log/pods/x",
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
}

func goodContainer() *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "app"}, Image: &cri.ImageSpec{Image: "sha256:1"}, LogPath: "app/0.log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{}},
	}
}

// TestGoodRequests: what the table of bad requests starts from is good.
func TestGoodRequests(t *testing.T) {
	pod, err := convert.SandboxConfig(goodSandbox(), "")
	if err != nil || admit.Sandbox(pod) != nil {
		t.Fatal(err, admit.Sandbox(pod))
	}
	unit, err := convert.ContainerConfig(goodContainer())
	if err != nil || admit.Container(pod, unit) != nil {
		t.Fatal(err, admit.Container(pod, unit))
	}
}
