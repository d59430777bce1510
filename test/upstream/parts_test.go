//go:build upstream

// Package upstream runs skiff's parts beside their upstream counterparts, swapped in every way: the upstream kubelet on
// skiff's CRI socket, skiff's kubelet on containerd's. The upstream binaries are found on the PATH; `make test-upstream`
// runs what the machine has binaries for, and names what it has not. It is no part of `make test`.
package upstream

import (
	"path/filepath"

	"github.com/skiff-node/skiff/test/harness"
	"github.com/skiff-node/skiff/test/images"
)

// write makes a file on the host.
func write(t harness.TB, h *harness.Host, path, text string) {
	t.Helper()
	if err := harness.Write(h, path, text); err != nil {
		t.Fatal(err)
	}
}

// runtime is a CRI server on a host.
type runtime struct {
	name   string
	socket string
}

// skiffCRI starts skiff-cri on the host, with the project's images.
func skiffCRI(t harness.TB, h *harness.Host) runtime {
	t.Helper()
	return runtime{name: "skiff", socket: harness.SkiffCRI(h, archives(t, h)...)}
}

// containerd starts Debian's containerd on the host, with the project's images; its sandboxes run the probe.
func containerd(t harness.TB, h *harness.Host) runtime {
	t.Helper()
	write(t, h, "/etc/containerd/config.toml", harness.ContainerdConfig(pauseImage))
	write(t, h, "/etc/cni/net.d/10-test.conflist", harness.Conflist)
	harness.Daemon(h, "containerd", "containerd")
	harness.Await(h, "/run/containerd/containerd.sock")
	for _, image := range archives(t, h) {
		h.MustRun("ctr", "-n", "k8s.io", "images", "import", image)
	}
	h.MustRun("ctr", "-n", "k8s.io", "images", "import", pauseArchive(t, h))
	return runtime{name: "containerd", socket: "/run/containerd/containerd.sock"}
}

func archives(t harness.TB, h *harness.Host) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(h.BinDir, "images", "*.tar"))
	if err != nil || len(out) == 0 {
		t.Fatalf("no image archives in %s/images: run make build", h.BinDir)
	}
	return out
}

const pauseImage = "localhost/skiff/pause:v1"

// pauseArchive writes the image of containerd's sandboxes.
func pauseArchive(t harness.TB, h *harness.Host) string {
	t.Helper()
	program, err := images.Binary(filepath.Join(h.BinDir, "images", "probe"))
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(h.Dir, "pause.tar")
	err = images.BuildArchive(archive, map[string]images.Spec{
		pauseImage: {Files: map[string]images.File{"/probe": program}, Entrypoint: []string{"/probe", "signals"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return archive
}
