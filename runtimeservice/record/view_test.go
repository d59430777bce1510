package record

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/table"
)

func newView(t *testing.T) View {
	t.Helper()
	boxes, err := table.Open[Sandbox](t.TempDir(), "sandbox", lifecycle.Sandbox())
	if err != nil {
		t.Fatal(err)
	}
	members, err := table.Open[Container](t.TempDir(), "container", lifecycle.Container())
	if err != nil {
		t.Fatal(err)
	}
	v := View{Boxes: boxes, Members: members, Bundle: func(string) string { return t.TempDir() }}
	for id, phase := range map[string]lifecycle.Phase{"box": lifecycle.Ready, "unborn": lifecycle.Creating} {
		rec := Sandbox{Sandbox: runtimeservice.Sandbox{ID: id, Config: runtimeservice.SandboxConfig{
			Metadata: runtimeservice.SandboxMetadata{Namespace: "shop", Name: "web"},
		}}, Phase: phase, Cgroup: "pods/x"}
		if _, _, err := boxes.Add(rec, func(Sandbox) (bool, error) { return false, nil }); err != nil {
			t.Fatal(err)
		}
	}
	for id, phase := range map[string]lifecycle.Phase{"running": lifecycle.Running, "making": lifecycle.Creating, "lost": lifecycle.Exited} {
		rec := Container{Container: runtimeservice.Container{ID: id, SandboxID: "box", Config: runtimeservice.ContainerConfig{
			Metadata: runtimeservice.ContainerMetadata{Name: "app"},
		}}, Phase: phase}
		if id == "lost" {
			rec.Container.SandboxID = "gone"
		}
		if _, _, err := members.Add(rec, func(Container) (bool, error) { return false, nil }); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

// TestViewHidesTheUnborn: what is being made is not there for others.
func TestViewHidesTheUnborn(t *testing.T) {
	v := newView(t)
	if pods := v.Pods(); len(pods) != 1 || pods[0].ID != "box" || pods[0].Cgroup != "/pods/x" || pods[0].State != runtimeservice.SandboxReady {
		t.Errorf("%+v", pods)
	}
	if units := v.Units(); len(units) != 2 {
		t.Errorf("%+v", units)
	}
	e := v.Event(runtimeservice.EventStarted, "running", "box")
	if e.Sandbox == nil || e.Sandbox.ID != "box" || len(e.Containers) != 1 || e.Containers[0].ID != "running" {
		t.Errorf("%+v", e)
	}
}

func TestUnitOf(t *testing.T) {
	v := newView(t)
	for id, pod := range map[string]string{"running": "box", "lost": "gone"} {
		o, err := v.Members.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		if p, u := v.UnitOf(o.Record()); p.ID != pod || u.ID != id {
			t.Errorf("%s: %+v, %+v", id, p, u)
		}
	}
	if spec, err := v.Spec(t.Context(), "running"); spec != nil || err != nil {
		t.Errorf("a container without a specification: %s, %v", spec, err)
	}
}

func TestKeys(t *testing.T) {
	v := newView(t)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	for _, id := range []string{"running", "lost"} {
		o, err := v.Members.Find(id)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("x", v.Keys(o.Record()), "more", 1)
	}
	for _, want := range []string{"container=running name=app pod=shop/web sandbox=box more=1", "container=lost name=app more=1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
