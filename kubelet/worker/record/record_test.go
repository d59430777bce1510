package record

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/pod/resize"
)

func TestFiles(t *testing.T) {
	files := Files(t.TempDir())
	want := Standing{
		Granted: resize.Allocation{"a": {Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}}},
		Actual:  map[string]Actual{"a": {ID: "1"}, resize.Whole: {Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}}}},
	}
	if err := os.Mkdir(filepath.Join(files.PodsDir, "u"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := files.Save("u", want); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := files.Load("u"); err != nil || !ok || !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
