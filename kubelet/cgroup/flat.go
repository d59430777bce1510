package cgroup

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Groups are what pods live in: a Manager's tree, or none of the kubelet's (Flat).
type Groups interface {
	// EnsureNode makes what is above all pods.
	EnsureNode() error
	// EnsurePod makes the pod's own, and returns the parent for its containers that the runtime is to be told; "" leaves it to the
	// runtime.
	EnsurePod(pod *v1.Pod) (parent string, err error)
	Adopt(pod *v1.Pod)
	ResizePod(pod *v1.Pod, change func() error) error
	RemovePod(ctx context.Context, uid types.UID) error
	Retain(ctx context.Context, has func(types.UID) bool) error
	// All is the path of the group of all pods.
	All() string
	// Version and Protected are for metrics.
	Version() Version
	Protected() (guaranteed, burstable int64)
	Close() error
}

var _, _ Groups = (*Manager)(nil), Flat{}

// Flat makes no groups for pods or their classes (cgroupsPerQOS: false): the runtime puts containers where it likes, and each is
// bounded by itself only.
type Flat struct{ *Manager }

// EnsureNode limits the group that the operator has made for pods, if there is one, to the machine.
func (f Flat) EnsureNode() error {
	if f.cfg.Root == "/" {
		return nil
	}
	group := f.All()
	if !f.exists(group) {
		return fmt.Errorf("cgroupRoot: cgroup %q does not exist", group)
	}
	if err := f.restrict(group, f.cfg.Node); err != nil {
		return fmt.Errorf("limit cgroup %q, cgroupRoot: %w", group, err)
	}
	return nil
}

// All is the group that the operator has made for pods; where there is none, the root.
func (f Flat) All() string {
	if f.units != nil {
		return expand(f.cfg.Root)
	}
	return f.cfg.Root
}

// EnsurePod leaves the parent to the runtime.
func (Flat) EnsurePod(*v1.Pod) (string, error) { return "", nil }

// Adopt counts nothing: there are no classes to be weighed.
func (Flat) Adopt(*v1.Pod) {}

// ResizePod is only about the containers.
func (Flat) ResizePod(_ *v1.Pod, change func() error) error { return change() }

// RemovePod has nothing to remove.
func (Flat) RemovePod(context.Context, types.UID) error { return nil }

// Retain has nothing to look for.
func (Flat) Retain(context.Context, func(types.UID) bool) error { return nil }
