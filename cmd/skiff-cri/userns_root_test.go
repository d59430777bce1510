//go:build root

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const firstID, idCount = 200000, 65536

func userns() *cri.UserNamespace {
	ids := []*cri.IDMapping{{HostId: firstID, Length: idCount}}
	return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}
}

// requireUserNamespaces skips where the kernel cannot give a pod users of its own.
func requireUserNamespaces(h *host) {
	h.Helper()
	st, err := h.runtime.Status(h.Context(), &cri.StatusRequest{Verbose: true})
	if err != nil {
		h.Fatal(err)
	}
	if !st.RuntimeHandlers[0].Features.UserNamespaces {
		h.Skipf("the kernel lacks user namespaces or idmapped mounts: %s", st.Info["info"])
	}
	if !st.Features.UserNamespacesHostNetwork || !st.Features.MountOptions || !st.Features.SupplementalGroupsPolicy {
		h.Errorf("features: %v", st.Features)
	}
}

func TestUserNamespace(t *testing.T) {
	h := newHost(t)
	requireUserNamespaces(h)
	config := h.sandboxConfig("users")
	options := config.Linux.SecurityContext.NamespaceOptions
	options.UsernsOptions = userns()
	config.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	box := h.runSandbox(config)

	volume := filepath.Join(h.dir, "volume")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ids := []*cri.IDMapping{{HostId: firstID, Length: idCount}}
	c := containerConfig("app", "sleep 1000")
	c.Linux.SecurityContext.NamespaceOptions = options
	c.Mounts = []*cri.Mount{
		{ContainerPath: "/mapped", HostPath: volume, UidMappings: ids, GidMappings: ids},
		{ContainerPath: "/plain", HostPath: volume},
		{ContainerPath: "/image", Readonly: true, Image: &cri.ImageSpec{Image: testImage}},
	}
	id := h.start(box, c, config)
	h.expect(id, "cat /proc/self/uid_map", "0 200000 65536")
	h.expect(id, "id -u", "0")
	h.expect(id, "hostname", "users")
	h.expect(id, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced", "1 1")
	h.expect(id, "ls /sys/class/net", "eth0 lo")
	h.expect(id, "stat -c %u /etc/passwd /etc/hosts /etc/resolv.conf /etc/hostname / /dev/shm /image/etc/passwd", "0 0 0 0 0 0 0")
	h.expect(id, "echo 10.0.0.1 x >>/etc/hosts && touch /dev/shm/a /b && chown 1000 /b && stat -c %u /b", "1000")
	h.expect(id, "stat -c %u /mapped/mine /plain/mine", "0 65534")
	h.expect(id, "touch /mapped/new && stat -c %u /mapped/new", "0")
	h.expect(id, "touch /plain/new 2>/dev/null; touch /image/new 2>/dev/null; ls /plain", "mine new")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(volume, "new"), &st); err != nil || st.Uid != 0 {
		t.Errorf("a file in a mapped volume belongs to %d on the host, %v", st.Uid, err)
	}
	pid := strings.TrimSpace(h.exec(id, "sh", "-c", "echo $$"))
	if pid == "" {
		t.Error("no process")
	}
	// Another container of the pod has the same users, whether or not it repeats the mapping; other ones are refused.
	other := containerConfig("other", "sleep 1000")
	h.expect(h.start(box, other, config), "cat /proc/self/uid_map", "0 200000 65536")
	other.Metadata.Name = "third"
	other.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: userns()}
	other.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids[0].HostId = 500000
	_, err := h.runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: box, Config: other, SandboxConfig: config})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a container with other users than its pod: %v", err)
	}
	// A restart of the server finds and removes all of it.
	h.kill()
	h.up()
	h.expect(id, "id -u", "0")
	h.remove(box)
	h.nothingLeft()
}

func TestUserNamespaceSharesProcesses(t *testing.T) {
	h := newHost(t)
	requireUserNamespaces(h)
	config := h.sandboxConfig("shared")
	config.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_POD, UsernsOptions: userns()}
	c := containerConfig("app", "sleep 1000")
	c.Linux.SecurityContext.NamespaceOptions = config.Linux.SecurityContext.NamespaceOptions
	box := h.runSandbox(config)
	h.expect(h.start(box, c, config), "cat /proc/1/comm", "pause")
	h.remove(box)
	h.nothingLeft()
}

func TestUserNamespaceOnTheHostsNetwork(t *testing.T) {
	h := newHost(t)
	requireUserNamespaces(h)
	config := h.sandboxConfig("hostnet")
	config.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{
		Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: userns(),
	}
	c := containerConfig("app", "sleep 1000")
	c.Linux.SecurityContext.NamespaceOptions = config.Linux.SecurityContext.NamespaceOptions
	box := h.runSandbox(config)
	id := h.start(box, c, config)
	h.expect(id, "cat /proc/self/uid_map", "0 200000 65536")
	h.expect(id, "ls -d /sys/class/net/lo", "/sys/class/net/lo")
	config.Linux.SecurityContext.NamespaceOptions.Ipc = cri.NamespaceMode_NODE
	config.Metadata.Attempt++
	_, err := h.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("the host's IPC namespace with a user namespace: %v", err)
	}
	h.remove(box)
	h.nothingLeft()
}
