package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	helper "k8s.io/component-helpers/resource"
)

// Config is what a Manager needs.
type Config struct {
	// Root is the group below which kubepods lies, "/" by default (cgroupRoot).
	Root string
	// Units makes the groups slices of systemd (cgroupDriver: systemd); nil means the cgroupfs driver.
	Units Units
	// Layout is where control groups are mounted; its zero value means to detect it.
	Layout Layout
	// Node are the limits of all pods together (node allocatable).
	Node Limits
	// Reserved are the limits of existing groups, by path: what the system and the kubelet may use (kubeReservedCgroup).
	Reserved map[string]Limits
	// Reserve keeps what better classes of pods request from the worse ones (qosReserved).
	Reserve Reserve
	// Options apply to every pod. PageSizes is filled in from the machine when nil.
	Options Options
	// Log receives what could not be done but harms nobody. May be nil.
	Log *slog.Logger
}

// Manager makes and removes the groups of pods. It is safe for concurrent use.
type Manager struct {
	tree
	cfg   Config
	mu    sync.Mutex
	pods  map[types.UID]podState
	tiers tiers // what was written to them last
}

type podState struct {
	class    Class
	milliCPU int64
	memory   int64 // requested
	files    []File
}

// needed are the controllers without which pods cannot be bounded.
func needed() []string { return []string{"cpu", "memory", "pids"} }

// New detects what is not given and reports a machine without the controllers that pods need.
func New(cfg Config) (*Manager, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Layout.Version == 0 {
		layout, err := Detect()
		if err != nil {
			return nil, fmt.Errorf("find the control groups: %w", err)
		}
		cfg.Layout = layout
	}
	for _, c := range needed() {
		if cfg.Layout.Trees[c] == "" {
			return nil, fmt.Errorf("cgroup controller %q is missing (cgroup %s): enable it in the kernel or mount it", c, cfg.Layout.Version)
		}
	}
	if cfg.Layout.Trees["hugetlb"] == "" {
		cfg.Options.PageSizes = nil
	} else if cfg.Options.PageSizes == nil {
		cfg.Options.PageSizes = HugePageSizes()
	}
	return &Manager{tree: tree{root: cfg.Root, layout: cfg.Layout, units: cfg.Units}, cfg: cfg, pods: map[types.UID]podState{}}, nil
}

// Close ends the connection to systemd, if there is one. The groups stay.
func (m *Manager) Close() error {
	if c, ok := m.units.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// All is kubepods.
func (m *Manager) All() string { return m.group() }

// EnsureNode makes kubepods with the node's limits and the two tiers below it, and limits the groups that are reserved for others.
// It is idempotent. In this order, as in version 2 making kubepods gives its siblings files that they may lack.
func (m *Manager) EnsureNode() error {
	if err := m.ensureTiers(); err != nil {
		return err
	}
	for group, limits := range m.cfg.Reserved {
		group = m.existing(group)
		if !m.exists(group) {
			return fmt.Errorf("cgroup %q, which is to be limited to what is reserved, does not exist", group)
		}
		if err := m.restrict(group, limits); err != nil {
			return fmt.Errorf("limit cgroup %q to what is reserved: %w", group, err)
		}
	}
	return nil
}

// EnsurePod makes the pod's group with its limits and returns the cgroup parent to give to the runtime. Call it again
// when the pod's resources change. Nothing is written when nothing changed.
func (m *Manager) EnsurePod(pod *v1.Pod) (cgroupParent string, err error) {
	class := ClassOf(pod)
	group := m.podGroup(class, pod.UID)
	cgroupParent = group
	if m.units != nil {
		cgroupParent = filepath.Base(group)
	}
	limits := m.limits(pod)
	files := Files(m.layout.Version, limits)
	m.mu.Lock()
	have, ok := m.pods[pod.UID]
	m.mu.Unlock()
	if ok && have.class == class && slices.Equal(have.files, files) && m.exists(group) {
		return cgroupParent, nil
	}
	if err := m.ensure(group, limits); err != nil {
		return "", fmt.Errorf("make the cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(pod, files)
	return cgroupParent, nil
}

// limits of the pod's group.
func (m *Manager) limits(pod *v1.Pod) Limits {
	l := PodLimits(pod, m.cfg.Options)
	if m.units != nil {
		l = l.whole()
	}
	return l
}

// Adopt counts a pod that a kubelet before this one has started, for the tiers weigh and protect what their pods ask for together.
// The pod's own group is left as it is: it may be about to be resized.
func (m *Manager) Adopt(pod *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.pods[pod.UID]; !ok {
		m.count(pod, nil)
	}
}

// count takes in what a pod asks for, and what was written to its group. m.mu is held.
func (m *Manager) count(pod *v1.Pod, files []File) {
	requests := helper.PodRequests(pod, helper.PodResourcesOptions{})
	m.pods[pod.UID] = podState{ClassOf(pod), requests.Cpu().MilliValue(), requests.Memory().Value(), files}
	m.updateTiers()
}

// ResizePod gives the pod's group the limits of pod, and runs change, which gives its containers theirs, in between: a
// group can take no less than its children have, and they no more than it has. So it first takes any.
func (m *Manager) ResizePod(pod *v1.Pod, change func() error) error {
	limits := m.limits(pod)
	open := Limits{Quota: ptr(Unlimited), Period: m.cfg.Options.Period, Memory: ptr(Unlimited)}
	group := m.podGroup(ClassOf(pod), pod.UID)
	if err := m.set(group, open); err != nil {
		return fmt.Errorf("lift the limits of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	failed := change()
	if err := m.set(group, limits); err != nil {
		return errors.Join(failed, fmt.Errorf("limit pod %s/%s: %w", pod.Namespace, pod.Name, err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(pod, Files(m.layout.Version, limits))
	return failed
}

// RemovePod removes the pod's group and whatever is below it from every tree. Its containers must be stopped; a process
// that is still exiting is waited for until ctx ends. A group that does not exist is no error.
func (m *Manager) RemovePod(ctx context.Context, uid types.UID) error {
	for _, class := range []Class{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		if err := m.remove(ctx, m.podGroup(class, uid)); err != nil {
			return fmt.Errorf("remove the cgroup of pod %s: %w", uid, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	m.updateTiers()
	return nil
}

// Retain removes the groups of all pods but those that there are, by has, when it is their turn: what a crash left behind.
func (m *Manager) Retain(ctx context.Context, has func(types.UID) bool) error {
	found := map[types.UID]bool{}
	for _, root := range m.layout.Roots {
		for _, tier := range []string{"", burstable, bestEffort} {
			m.podsIn(root, m.group(tier), found)
		}
	}
	var failed []error
	for uid := range found {
		if !has(uid) {
			failed = append(failed, m.RemovePod(ctx, uid))
		}
	}
	return errors.Join(failed...)
}

// HugePageSizes lists the sizes of huge pages of this machine, in bytes.
func HugePageSizes() []int64 {
	entries, _ := os.ReadDir("/sys/kernel/mm/hugepages")
	var sizes []int64
	for _, e := range entries {
		var kb int64
		if _, err := fmt.Sscanf(e.Name(), "hugepages-%dkB", &kb); err == nil {
			sizes = append(sizes, kb*1024)
		}
	}
	slices.Sort(sizes)
	return sizes
}
