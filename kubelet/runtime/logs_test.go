package runtime

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// TestLogLinks: each container's log has its link, also where a kubelet that was killed has left a draft, and they go with the logs.
func TestLogLinks(t *testing.T) {
	root := t.TempDir()
	p := &v1.Pod{}
	p.Name, p.Namespace, p.UID = "p", "ns", "u"
	node := &spec.Node{LogsDir: filepath.Join(root, "pods")}
	r := &Runtime{cfg: Config{Node: node}, known: map[types.UID]settled{}}
	dir := filepath.Join(spec.PodLogDir(node.LogsDir, p), "c")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, id := range []string{"1", "2", "3"} {
		log := filepath.Join(dir, id+".log")
		if err := os.WriteFile(log, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := os.Symlink("/nowhere", filepath.Join(dir, ".link")); err != nil {
				t.Fatal(err)
			}
		}
		launch{r, &Request{Pod: p, Start: pod.ContainerStart{Name: "c"}}}.link(id, log)
		if to, err := os.Readlink(filepath.Join(root, "containers", "p_ns_c-"+id+".log")); err != nil || to != log {
			t.Errorf("%s: linked to %q, err %v", id, to, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, ".link")); !os.IsNotExist(err) {
			t.Errorf("%s: a draft is left: %v", id, err)
		}
	}
	if err := r.RemoveLogs(p); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "containers")); err != nil || len(left) != 0 {
		t.Errorf("links left: %v, err %v", left, err)
	}
}
