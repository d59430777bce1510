package record

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/bundle"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/table"
)

// View shows what there is, as it is whenever one looks, to those who measure it and those who take part in it.
type View struct {
	Boxes   *table.Table[Sandbox]
	Members *table.Table[Container]
	// Bundle is the directory of a container's specification.
	Bundle func(id string) string
}

// PodOf is a sandbox as others see it.
func (v View) PodOf(rec Sandbox) hooks.Pod {
	return hooks.Pod{Sandbox: rec.Public(), Cgroup: filepath.Join("/", rec.Cgroup)}
}

func (v View) unitOf(rec Container) hooks.Unit {
	return hooks.Unit{
		Container: rec.Public(), Cgroup: rec.Cgroup,
		Spec: func() (*specs.Spec, error) { return bundle.Read(v.Bundle(rec.Container.ID)) },
	}
}

// UnitOf is a container as others see it, with its pod, or only the pod's id when that is gone.
func (v View) UnitOf(rec Container) (hooks.Pod, *hooks.Unit) {
	unit := v.unitOf(rec)
	if pod, err := v.Pod(rec.Container.SandboxID); err == nil {
		return pod, &unit
	}
	return hooks.Pod{Sandbox: runtimeservice.Sandbox{ID: rec.Container.SandboxID}}, &unit
}

// ContainersOf are the containers of a sandbox.
func (v View) ContainersOf(sandboxID string) []*table.Object[Container] {
	var out []*table.Object[Container]
	for _, o := range v.Members.All() {
		if o.Record().Container.SandboxID == sandboxID {
			out = append(out, o)
		}
	}
	return out
}

// Pod finds a sandbox by id or unique prefix of it.
func (v View) Pod(id string) (hooks.Pod, error) {
	o, err := v.Boxes.Find(id)
	if err != nil {
		return hooks.Pod{}, err
	}
	return v.PodOf(o.Record()), nil
}

// Unit finds a container by id or unique prefix of it.
func (v View) Unit(id string) (hooks.Unit, error) {
	o, err := v.Members.Find(id)
	if err != nil {
		return hooks.Unit{}, err
	}
	return v.unitOf(o.Record()), nil
}

// Pods are the sandboxes that have been made.
func (v View) Pods() []hooks.Pod {
	var out []hooks.Pod
	for _, o := range v.Boxes.All() {
		if rec := o.Record(); rec.Phase != lifecycle.Creating {
			out = append(out, v.PodOf(rec))
		}
	}
	return out
}

// Units are the containers that have been made.
func (v View) Units() []hooks.Unit {
	var out []hooks.Unit
	for _, o := range v.Members.All() {
		if rec := o.Record(); rec.Phase != lifecycle.Creating {
			out = append(out, v.unitOf(rec))
		}
	}
	return out
}

// Event is a change, with the whole pod as it is now. What is still being made is not part of it.
func (v View) Event(t runtimeservice.EventType, id, sandboxID string) runtimeservice.Event {
	e := runtimeservice.Event{ID: id, Type: t, At: time.Now().Round(0)}
	if pod, err := v.Pod(sandboxID); err == nil {
		e.Sandbox = &pod.Sandbox
	}
	for _, o := range v.ContainersOf(sandboxID) {
		if rec := o.Record(); rec.Phase != lifecycle.Creating {
			e.Containers = append(e.Containers, rec.Public())
		}
	}
	return e
}

// Spec implements runtimeservice.Inspector.
func (v View) Spec(_ context.Context, id string) (json.RawMessage, error) {
	o, err := v.Members.Find(id)
	if err != nil {
		return nil, err
	}
	text, err := bundle.Raw(v.Bundle(o.Record().Container.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// Keys name a container, and its pod while that is there, in the log.
func (v View) Keys(rec Container) slog.Attr {
	own := []any{"container", rec.Container.ID, "name", rec.Container.Config.Metadata.Name}
	if o, err := v.Boxes.Find(rec.Container.SandboxID); err == nil {
		own = append(own, o.Record().Keys())
	}
	return slog.Group("", own...)
}
