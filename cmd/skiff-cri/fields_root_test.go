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

// createError asks for a container that cannot be.
func (h *host) createError(box string, c *cri.ContainerConfig, s *cri.PodSandboxConfig) error {
	h.Helper()
	_, err := h.runtime.CreateContainer(h.Context(), &cri.CreateContainerRequest{PodSandboxId: box, Config: c, SandboxConfig: s})
	if err == nil {
		h.Errorf("%s: created", c.Metadata.Name)
	}
	return err
}

// shared is a directory of the test on a mount that shares with others.
func (h *host) shared(name string) string {
	h.Helper()
	dir := filepath.Join(h.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		h.Fatal(err)
	}
	return dir
}

func TestVolumes(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("volumes")
	box := h.runSandbox(config)
	dir := h.shared("shared")
	for _, sub := range []string{"below", "up"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "below"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	c := containerConfig("app", "sleep 1000")
	c.Linux.SecurityContext.Capabilities = &cri.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	c.Linux.SecurityContext.Seccomp = nil
	c.Mounts = []*cri.Mount{
		{ContainerPath: "/ro", HostPath: dir, Readonly: true},
		{ContainerPath: "/rro", HostPath: dir, Readonly: true, RecursiveReadOnly: true},
		{ContainerPath: "/slave", HostPath: dir, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		{ContainerPath: "/both", HostPath: dir, Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		{ContainerPath: "/strict", HostPath: dir, MountOptions: []string{"noexec", "nosuid", "nodev"}},
	}
	id := h.start(box, c, config)
	h.expect(id, "touch /ro/x 2>/dev/null || echo no; touch /ro/below/x && echo yes", "no yes")
	h.expect(id, "touch /rro/x 2>/dev/null || echo no; touch /rro/below/y 2>/dev/null || echo no", "no no")
	h.expect(id, "grep ' /strict ' /proc/self/mounts | cut -d' ' -f4 | tr , '\\n' | grep ^no | sort", "nodev noexec nosuid")
	if err := unix.Mount("tmpfs", filepath.Join(dir, "up"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "up", "mark"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.expect(id, "ls /slave/up /ro/up", "/ro/up: /slave/up: mark")
	h.expect(id, "mkdir /both/mine && mount -t tmpfs tmpfs /both/mine && touch /both/mine/from-inside && echo done", "done")
	if _, err := os.Stat(filepath.Join(dir, "mine", "from-inside")); err != nil {
		t.Errorf("a mount of the container does not reach the host: %v", err)
	}
	for _, m := range h.status(id).Mounts {
		if m.ContainerPath == "/strict" && len(m.MountOptions) != 3 {
			t.Errorf("status: %v", m)
		}
	}
	lonely := filepath.Join(h.dir, "lonely")
	if err := os.Mkdir(lonely, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", lonely, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(lonely, unix.MNT_DETACH)
	if err := unix.Mount("", lonely, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	bad := containerConfig("bad", "true")
	bad.Mounts = []*cri.Mount{{ContainerPath: "/a", HostPath: lonely, Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}}
	if err := h.createError(box, bad, config); !strings.Contains(err.Error(), "make-rshared") {
		t.Errorf("propagation from a private mount: %v", err)
	}
	bad.Mounts = []*cri.Mount{{ContainerPath: "/a", HostPath: "/no/such"}}
	if err := h.createError(box, bad, config); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "mounts[0].host_path") {
		t.Errorf("missing host path: %v", err)
	}
	h.remove(box)
	h.nothingLeft()
}

func TestImageVolumes(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("images")
	box := h.runSandbox(config)
	image := func(sub string) *cri.Mount {
		return &cri.Mount{ContainerPath: "/image" + sub, Readonly: true, Image: &cri.ImageSpec{Image: testImage}, ImageSubPath: sub}
	}
	c := containerConfig("app", "sleep 1000")
	c.Mounts = []*cri.Mount{image(""), image("www"), image("www/index.html"), image("../../www")}
	c.Mounts[3].ContainerPath = "/inside"
	id := h.start(box, c, config)
	h.expect(id, "cat /image/www/index.html /imagewww/index.html /imagewww/index.html /inside/index.html", "ahoy ahoy ahoy ahoy")
	h.expect(id, "touch /image/x 2>/dev/null || echo no; /image/bin/busybox true && echo runs", "no runs")
	s := h.status(id)
	for _, m := range s.Mounts {
		if m.Image.GetImage() != testImage || m.Image.GetImageRef() != s.ImageId {
			t.Errorf("status: %v", m)
		}
	}
	bad := containerConfig("bad", "true")
	bad.Mounts = []*cri.Mount{image("no/such")}
	if err := h.createError(box, bad, config); !strings.Contains(err.Error(), "ImageVolumeMountFailed") {
		t.Errorf("missing sub path: %v", err)
	}
	bad.Mounts = []*cri.Mount{image("")}
	bad.Mounts[0].Image.Image = "docker.io/library/none:1"
	if err := h.createError(box, bad, config); !strings.Contains(err.Error(), "ImageVolumeMountFailed") {
		t.Errorf("missing image: %v", err)
	}
	h.remove(box)
	h.nothingLeft()
}

const cdiFile = `cdiVersion: "0.6.0"
kind: "vendor.com/dev"
devices:
- name: zero
  containerEdits:
    env: ["HAVE=zero"]
    deviceNodes:
    - {path: /dev/vendor0, hostPath: /dev/zero, permissions: rw}
`

func TestDevices(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("devices")
	box := h.runSandbox(config)
	c := containerConfig("app", "sleep 1000")
	c.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/dev=zero"}}
	c.Devices = []*cri.Device{{HostPath: "/dev/full", ContainerPath: "/dev/mine", Permissions: "r"}}
	if err := h.createError(box, c, config); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "vendor.com/dev=zero") {
		t.Errorf("a CDI device that nobody describes: %v", err)
	}
	dir := filepath.Join(h.dir, "cdi")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vendor.yaml"), []byte(cdiFile), 0o644); err != nil {
		t.Fatal(err)
	}
	id := h.start(box, c, config) // no restart: the description is found when it is asked for
	h.expect(id, "echo $HAVE; head -c 3 /dev/vendor0 | tr '\\0' z; echo x >/dev/vendor0 && echo written", "zero zzzwritten")
	h.expect(id, "head -c 2 /dev/mine | tr '\\0' z; echo; echo x 2>/dev/null >/dev/mine || echo refused", "zz refused")
	h.remove(box)
	h.nothingLeft()
}
