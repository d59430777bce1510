package meters

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
)

// table is what there is; looking a container up may end it.
type table struct {
	pods  []hooks.Pod
	units []hooks.Unit
}

func (t *table) Pods() []hooks.Pod   { return t.pods }
func (t *table) Units() []hooks.Unit { return t.units }

func (t *table) Pod(id string) (hooks.Pod, error) {
	for _, p := range t.pods {
		if p.ID == id {
			return p, nil
		}
	}
	return hooks.Pod{}, runtimeservice.ErrNotFound
}

func (t *table) Unit(id string) (hooks.Unit, error) {
	for _, u := range t.units {
		if u.ID == id {
			return u, nil
		}
	}
	return hooks.Unit{}, runtimeservice.ErrNotFound
}

// layers has the writable layers of some containers. One that is gone ends the container, as it does in life.
type layers struct {
	table *table
	dir   string
	gone  map[string]bool
}

func (l *layers) Usage(_ context.Context, key string) (imageservice.Usage, error) {
	if !l.gone[key] {
		return imageservice.Usage{Bytes: 5}, nil
	}
	for i := range l.table.units {
		if l.table.units[i].ID == key {
			l.table.units[i].State = runtimeservice.ContainerExited
		}
	}
	return imageservice.Usage{}, errors.New("no such layer")
}

func (l *layers) FSInfo(context.Context) (images, containers imageservice.FSInfo, err error) {
	return imageservice.FSInfo{}, imageservice.FSInfo{Mountpoint: l.dir}, nil
}

func newMeters(t *testing.T, gone map[string]bool) *Meters {
	root := cgroup.Root{Path: t.TempDir(), V2: true}
	tab := &table{pods: []hooks.Pod{
		{Sandbox: runtimeservice.Sandbox{ID: "p", State: runtimeservice.SandboxReady}, Cgroup: "/p"},
		{Sandbox: runtimeservice.Sandbox{ID: "stopped", State: runtimeservice.SandboxNotReady}, Cgroup: "/s"},
	}}
	for id, state := range map[string]runtimeservice.ContainerState{
		"running": runtimeservice.ContainerRunning, "ending": runtimeservice.ContainerRunning, "created": runtimeservice.ContainerCreated,
	} {
		dir := filepath.Join(root.Path, "p", id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"memory.current": "7\n", "cgroup.procs": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		tab.units = append(tab.units, hooks.Unit{Container: runtimeservice.Container{ID: id, SandboxID: "p", State: state}, Cgroup: "/p/" + id})
	}
	return New(tab, &layers{table: tab, dir: t.TempDir(), gone: gone}, root)
}

func TestListDetails(t *testing.T) {
	got, err := newMeters(t, map[string]bool{"ending": true}).ListDetails(t.Context())
	if err != nil || len(got) != 1 || len(got[0].Containers) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	c := got[0].Containers[0]
	if c.Container.ID != "running" || c.Detail.Usage.Memory.Usage.Value != 7 || c.Layer.Bytes != 5 || c.Space.Bytes == 0 {
		t.Errorf("%+v", c)
	}
}

func TestListStats(t *testing.T) {
	m := newMeters(t, map[string]bool{"ending": true})
	got, err := m.ListSandboxStats(t.Context(), runtimeservice.Filter{})
	if err != nil || len(got) != 1 || len(got[0].Containers) != 1 || got[0].Containers[0].Container.ID != "running" {
		t.Errorf("%+v, %v", got, err)
	}
	if list, err := m.ListContainerStats(t.Context(), runtimeservice.Filter{SandboxID: "other"}); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
