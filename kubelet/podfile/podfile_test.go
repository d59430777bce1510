package podfile

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// even is a number that refuses to be odd.
type even struct{ N int }

func (e *even) UnmarshalJSON(raw []byte) error {
	if err := json.Unmarshal(raw, &e.N); err != nil {
		return err
	}
	if e.N%2 != 0 {
		return errors.New("odd")
	}
	return nil
}

func (e even) MarshalJSON() ([]byte, error) { return json.Marshal(e.N) }

func TestKind(t *testing.T) {
	k := Kind[even]{PodsDir: t.TempDir(), Name: "even", Says: "how even the pod is", Early: true}
	if v, ok, err := k.Load("a"); ok || err != nil {
		t.Errorf("nothing was kept: %v %v", v, err)
	}
	if err := k.Remove("a"); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	want := map[types.UID]even{"a": {2}, "b": {4}}
	for uid, v := range want {
		if err := k.Save(uid, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(k.PodsDir, "bare"), 0o750); err != nil {
		t.Fatal(err)
	}
	if all, err := k.All(); err != nil || !maps.Equal(all, want) {
		t.Errorf("%v %v, want %v", all, err, want)
	}
	if v, ok, err := k.Load("b"); v.N != 4 || !ok || err != nil {
		t.Errorf("%v %v", v, err)
	}
	if err := k.Remove("b"); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := k.Load("b"); ok || err != nil {
		t.Errorf("it is there still: %v", err)
	}
}

// TestLate: what is told of a pod that is being taken down is not kept, and its directory is not made again.
func TestLate(t *testing.T) {
	for _, lasting := range []bool{false, true} {
		k := Kind[even]{PodsDir: t.TempDir(), Name: "even", Lasting: lasting}
		if err := k.Save("a", even{2}); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(k.PodsDir); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestDamaged(t *testing.T) {
	k := Kind[even]{PodsDir: t.TempDir(), Name: "even", Says: "how even the pod is", Early: true}
	if err := k.Save("a", even{2}); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "\x00\x00\x00", "null", "{}", "4 4", "3"} {
		if err := os.WriteFile(k.path("a"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, ok, err := k.Load("a")
		_, every := k.All()
		for _, err := range []error{err, every} {
			var d *whole.Damaged
			if ok || !errors.As(err, &d) || d.Path != k.path("a") {
				t.Errorf("%q: %v", text, err)
				continue
			}
			if text := err.Error(); !strings.HasPrefix(text, "read how even the pod is: file ") || !strings.HasSuffix(text, "; deleting pod a removes it") {
				t.Error(text)
			}
		}
	}
}

// TestUnreadable: what cannot be read is not taken for damaged, nor for missing.
func TestUnreadable(t *testing.T) {
	k := Kind[even]{PodsDir: t.TempDir(), Name: "even", Says: "how even the pod is", Early: true}
	if err := os.MkdirAll(filepath.Join(k.path("a"), "a directory instead"), 0o750); err != nil {
		t.Fatal(err)
	}
	var d *whole.Damaged
	if _, ok, err := k.Load("a"); ok || err == nil || errors.As(err, &d) {
		t.Error(err)
	}
	if err := k.Remove("a"); err == nil {
		t.Error("it was removed")
	}
	if err := k.Save("a", even{2}); err == nil {
		t.Error("it was written")
	}
}
