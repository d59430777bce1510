package record

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/pod/resize"
)

func TestRecord(t *testing.T) {
	d := Dir(t.TempDir())
	if s, err := d.Load("u"); s != nil || err != nil {
		t.Errorf("nothing kept: %v, %v", s, err)
	}
	want := &Standing{
		Granted: resize.Allocation{"a": {Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1500m")}}},
		Actual:  map[string]Actual{"a": {ID: "1"}, resize.Whole: {Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}}}},
	}
	if err := d.Save("u", want); err != nil {
		t.Errorf("a pod that is being taken down: %v", err)
	}
	if left, _ := os.ReadDir(string(d)); len(left) != 0 {
		t.Errorf("its directory was made again: %v", left)
	}
	if err := os.Mkdir(filepath.Join(string(d), "u"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := d.Save("u", want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load("u")
	if err != nil || !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(d.path("u"), []byte(`{"granted":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Load("u"); err == nil || !reflect.ValueOf(s).IsNil() {
		t.Errorf("a torn file: %+v, %v", s, err)
	}
}
