package userns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func of(t *testing.T, a *Allocator, uid string) Mapping {
	t.Helper()
	m, err := a.Of(types.UID(uid))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestOf(t *testing.T) {
	dir := t.TempDir()
	a, err := New(Config{PodsDir: dir, MaxPods: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i, uid := range []string{"a", "b", "c"} {
		if got, want := of(t, a, uid), (Mapping{uint32(Unit * (i + 1)), Unit}); got != want {
			t.Errorf("%s: %v, want %v", uid, got, want)
		}
	}
	if _, err := a.Of("d"); err == nil {
		t.Error("a fourth range of three")
	}
	again, err := New(Config{PodsDir: dir, MaxPods: 3, PodIDs: 2 * Unit}) // another kubelet, another length
	if err != nil {
		t.Fatal(err)
	}
	if got := of(t, again, "b"); got != (Mapping{2 * Unit, Unit}) {
		t.Errorf("after a restart: %v", got)
	}
	if err := os.RemoveAll(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if got := of(t, a, "d"); got != (Mapping{2 * Unit, Unit}) {
		t.Errorf("the range of a pod that is gone: %v", got)
	}
	if got := of(t, again, "e"); got != (Mapping{5 * Unit, 2 * Unit}) {
		t.Errorf("a longer range beside the others: %v", got)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "a", "userns"))
	if want := `{"uidMappings":[{"hostId":65536,"containerId":0,"length":65536}],"gidMappings":[{"hostId":65536,"containerId":0,"length":65536}]}`; err != nil || string(raw) != want {
		t.Errorf("%s %v", raw, err)
	}
}

func TestTorn(t *testing.T) {
	dir := t.TempDir()
	a, err := New(Config{PodsDir: dir, MaxPods: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"", "{}", `{"uidMappings":[{"hostId":1,"containerId":5,"length":9}],"gidMappings":[]}`} {
		pod := fmt.Sprint("torn", i)
		if err := os.MkdirAll(filepath.Join(dir, pod), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, pod, "userns"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Of(types.UID(pod)); err == nil || !strings.Contains(err.Error(), "user namespace has: file ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := a.Of("new"); err == nil {
		t.Error("ids were given out though others' are not known")
	}
	for _, bad := range []int64{-1, 1000, 1 << 32} {
		if _, err := New(Config{PodsDir: dir, MaxPods: 1, PodIDs: bad}); err == nil {
			t.Errorf("idsPerPod %d", bad)
		}
	}
}
