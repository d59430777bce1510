//go:build root

package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// upper lists what the writable layer of a container holds.
func (h *host) upper(id string) []string {
	h.Helper()
	var out []string
	top := filepath.Join(h.dir, "lib", "images", "containers", id, "fs")
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if path != top {
			out = append(out, strings.TrimPrefix(path, top))
		}
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// pointLayers are the layers of mount points in the store.
func (h *host) pointLayers() []string {
	h.Helper()
	layers, err := filepath.Glob(filepath.Join(h.dir, "lib", "images", "l", "p*"))
	if err != nil {
		h.Fatal(err)
	}
	return layers
}

// ordinary is a container with the mounts of an ordinary pod of Kubernetes, and one of a file.
func ordinary(h *host, name, image string) *cri.ContainerConfig {
	h.Helper()
	dir := filepath.Join(h.dir, "volume")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine\n"), 0o644); err != nil {
		h.Fatal(err)
	}
	c := containerConfig(name, "sleep 1000")
	c.Image = &cri.ImageSpec{Image: image}
	c.Mounts = []*cri.Mount{
		{ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", HostPath: dir, Readonly: true},
		{ContainerPath: "/data/deep", HostPath: dir}, {ContainerPath: "/conf/app.conf", HostPath: file}, {ContainerPath: "/etc/hosts", HostPath: file},
		{ContainerPath: "/dev/termination-log", HostPath: file},
	}
	return c
}

// TestMountPoints: a container finds its mounts whatever the image has in their places, and where the image has nothing, no
// inode of the container's own is spent on them.
func TestMountPoints(t *testing.T) {
	h := newHost(t)
	const bare, linked, wrong = "docker.io/library/bare:1", "docker.io/library/linked:1", "docker.io/library/wrong:1"
	h.importImage(bare, h.busybox())
	h.importImage(linked, append(h.busybox(),
		imagetest.File{Name: "run/"}, imagetest.File{Name: "var/"}, imagetest.File{Name: "var/run", Type: '2', Link: "/run"},
		imagetest.File{Name: "data/", Mode: 0o700, UID: 7}, imagetest.File{Name: "data/other", Body: "x"},
		imagetest.File{Name: "real/"}, imagetest.File{Name: "conf", Type: '2', Link: "real"}))
	h.importImage(wrong, append(h.busybox(), imagetest.File{Name: "data", Body: "a file"}))
	config := h.sandboxConfig("points")
	box := h.runSandbox(config)
	check := func(id string) {
		t.Helper()
		h.expect(id, "cat /var/run/secrets/kubernetes.io/serviceaccount/file /data/deep/file /conf/app.conf /etc/hosts /dev/termination-log", "mine mine mine mine mine")
		h.expect(id, "cat /etc/hostname && test -s /etc/resolv.conf && test -d /proc/1 && test -d /sys/class && test -c /dev/null && echo all", "points all")
	}

	id := h.start(box, ordinary(h, "bare", bare), config)
	check(id)
	if left := h.upper(id); len(left) > 0 {
		t.Errorf("the writable layer holds %v", left)
	}
	h.expect(id, "ls /", "bin conf data dev etc proc sys var")
	h.expect(id, "stat -c '%a %u %g' / /conf /data /etc /var /var/run/secrets/kubernetes.io", strings.TrimSpace(strings.Repeat("755 0 0 ", 6)))
	h.expect(id, "echo a >/etc/own && mkdir /data/own && ls /etc /data", "/data: deep own /etc: hostname hosts own resolv.conf")
	if got, want := h.upper(id), []string{"/data", "/data/own", "/etc", "/etc/own"}; !slices.Equal(got, want) {
		t.Errorf("the writable layer holds %v, want %v", got, want)
	}
	stats, err := h.runtime.ContainerStats(t.Context(), &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil || stats.Stats.WritableLayer.InodesUsed.GetValue() == 0 {
		t.Errorf("stats: %v, %v", stats, err)
	}
	readonly := ordinary(h, "readonly", bare)
	readonly.Linux.SecurityContext.ReadonlyRootfs = true
	id = h.start(box, readonly, config)
	check(id)
	h.expect(id, "touch /data/x /etc/x 2>/dev/null || echo no", "no")
	if left := h.upper(id); len(left) > 0 {
		t.Errorf("the writable layer holds %v", left)
	}
	h.expect(id, "ls /etc", "hostname hosts resolv.conf") // and not what the other container made

	id = h.start(box, ordinary(h, "linked", linked), config)
	check(id)
	h.expect(id, "ls / && ls /var /run /data /real", "bin conf data dev etc proc real run sys var /data: deep other /real: app.conf /run: secrets /var: run")
	h.expect(id, "stat -c '%a %u' /data /run/secrets/kubernetes.io", "700 7 755 0")
	for _, path := range h.upper(id) {
		if !strings.HasPrefix(path, "/run") && !strings.HasPrefix(path, "/real") {
			t.Errorf("the writable layer holds %s", path)
		}
	}
	if layers := h.pointLayers(); len(layers) != 1 {
		t.Errorf("containers with the same mount points have them in %v", layers)
	}

	r, err := h.runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: box, Config: ordinary(h, "wrong", wrong), SandboxConfig: config})
	if err == nil {
		_, err = h.runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: r.ContainerId})
	}
	if err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a file where a directory is wanted: %v", err)
	}
	h.remove(box)
	h.kill()
	h.up()
	if layers := h.pointLayers(); len(layers) > 0 {
		t.Errorf("used by nobody: %v", layers)
	}
}

// TestMountPointsInAUserNamespace: they belong to the root of the pod, as all else of the image does.
func TestMountPointsInAUserNamespace(t *testing.T) {
	h := newHost(t)
	requireUserNamespaces(h)
	const bare = "docker.io/library/bare:1"
	h.importImage(bare, h.busybox())
	config := h.sandboxConfig("users")
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns()
	box := h.runSandbox(config)
	c := ordinary(h, "app", bare)
	c.Linux.SecurityContext.NamespaceOptions = config.Linux.SecurityContext.NamespaceOptions
	id := h.start(box, c, config)
	h.expect(id, "stat -c '%a %u %g' / /conf /data /etc /var /var/run/secrets/kubernetes.io", strings.TrimSpace(strings.Repeat("755 0 0 ", 6)))
	h.expect(id, "cat /var/run/secrets/kubernetes.io/serviceaccount/file /data/deep/file /conf/app.conf /etc/hosts", "mine mine mine mine")
	if left := h.upper(id); len(left) > 0 {
		t.Errorf("the writable layer holds %v", left)
	}
	h.expect(id, "touch /etc/own && stat -c %u /etc/own", "0")
	h.remove(box)
	h.nothingLeft()
}
