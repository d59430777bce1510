package engine

import (
	"path/filepath"

	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/meters"
)

// measured lets the meters find what they measure.
type measured struct{ *core }

func asPod(o *sandbox) meters.Pod {
	rec := o.Record()
	return meters.Pod{Sandbox: rec.Public(), Cgroup: filepath.Join("/", rec.Cgroup)}
}

func asUnit(o *container) meters.Unit {
	rec := o.Record()
	return meters.Unit{Container: rec.Public(), Cgroup: rec.Cgroup}
}

// Pod implements meters.Pods.
func (m measured) Pod(id string) (meters.Pod, error) {
	o, err := m.boxes.Find(id)
	if err != nil {
		return meters.Pod{}, err
	}
	return asPod(o), nil
}

// Unit implements meters.Pods.
func (m measured) Unit(id string) (meters.Unit, error) {
	o, err := m.units.Find(id)
	if err != nil {
		return meters.Unit{}, err
	}
	return asUnit(o), nil
}

// Pods implements meters.Pods.
func (m measured) Pods() []meters.Pod {
	var out []meters.Pod
	for _, o := range m.boxes.All() {
		if o.Record().Phase != lifecycle.Creating {
			out = append(out, asPod(o))
		}
	}
	return out
}

// Units implements meters.Pods.
func (m measured) Units() []meters.Unit {
	var out []meters.Unit
	for _, o := range m.units.All() {
		if o.Record().Phase != lifecycle.Creating {
			out = append(out, asUnit(o))
		}
	}
	return out
}
