package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	helper "k8s.io/component-helpers/resource"
)

// Config is what a Manager needs.
type Config struct {
	// Root is the group below which kubepods lies, "/" by default (cgroupRoot).
	Root string
	// Systemd makes EnsurePod return slice names; systemd makes and removes the groups itself when the runtime asks it to.
	Systemd bool
	// Layout is where control groups are mounted; its zero value means to detect it.
	Layout Layout
	// Node are the limits of all pods together (node allocatable).
	Node Limits
	// Reserved are the limits of existing groups, by path: what the system and the kubelet may use (kubeReservedCgroup).
	Reserved map[string]Limits
	// Options apply to every pod. PageSizes is filled in from the machine when nil.
	Options Options
	// Log receives what could not be done but harms nobody. May be nil.
	Log *slog.Logger
}

// Manager makes and removes the groups of pods. It is safe for concurrent use.
type Manager struct {
	cfg  Config
	mu   sync.Mutex
	pods map[types.UID]podState
	last int64    // shares of the burstable tier that were written last
	kept [2]int64 // requests of memory of the Guaranteed and the Burstable pods that were written last
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
	return &Manager{cfg: cfg, pods: map[types.UID]podState{}}, nil
}

// Version is the version of control groups in use.
func (m *Manager) Version() Version { return m.cfg.Layout.Version }

// Dir is the directory of a group in the tree of a controller, "" when there is no such tree.
func (m *Manager) Dir(controller, group string) string {
	root := m.cfg.Layout.Trees[controller]
	if root == "" {
		return ""
	}
	return filepath.Join(root, group)
}

// EnsureNode makes kubepods with the node's limits and the two tiers below it. It is idempotent.
func (m *Manager) EnsureNode() error {
	for group, limits := range m.cfg.Reserved {
		group = filepath.Join("/", group)
		if !m.exists(group) {
			return fmt.Errorf("cgroup %q, which is to be limited to what is reserved, does not exist", group)
		}
		if err := m.write(group, Files(m.cfg.Layout.Version, limits)); err != nil {
			return fmt.Errorf("limit cgroup %q to what is reserved: %w", group, err)
		}
	}
	if m.cfg.Systemd {
		return nil
	}
	all := filepath.Join("/", m.cfg.Root, top)
	if err := m.ensure(all, Files(m.cfg.Layout.Version, m.cfg.Node)); err != nil {
		return fmt.Errorf("make the cgroup of all pods: %w", err)
	}
	least := Files(m.cfg.Layout.Version, Limits{Shares: ptr(minShares)})
	for _, tier := range []string{burstable, bestEffort} {
		group, files := filepath.Join(all, tier), least
		if tier == burstable && m.exists(group) {
			files = nil // its pods may run: it keeps its weight until they are adopted
		}
		if err := m.ensure(group, files); err != nil {
			return fmt.Errorf("make the cgroup of %s pods: %w", tier, err)
		}
	}
	return nil
}

// EnsurePod makes the pod's group with its limits and returns the cgroup parent to give to the runtime. Call it again
// when the pod's resources change. Nothing is written when nothing changed.
func (m *Manager) EnsurePod(pod *v1.Pod) (cgroupParent string, err error) {
	class := ClassOf(pod)
	if m.cfg.Systemd {
		return Slice(m.cfg.Root, class, pod.UID), nil
	}
	group := Path(m.cfg.Root, class, pod.UID)
	files := Files(m.cfg.Layout.Version, PodLimits(pod, m.cfg.Options))
	m.mu.Lock()
	defer m.mu.Unlock()
	if have, ok := m.pods[pod.UID]; ok && have.class == class && slices.Equal(have.files, files) && m.exists(group) {
		return group, nil
	}
	if err := m.ensure(group, files); err != nil {
		return "", fmt.Errorf("make the cgroup of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.count(pod, files)
	return group, nil
}

// Adopt counts a pod that a kubelet before this one has started, for the tiers weigh and protect what their pods ask for together.
// The pod's own group is left as it is: it may be about to be resized.
func (m *Manager) Adopt(pod *v1.Pod) {
	if m.cfg.Systemd {
		return
	}
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
	m.weighBurstable()
	m.protect()
}

// ResizePod gives the pod's group the limits of pod, and runs change, which gives its containers theirs, in between: a
// group can take no less than its children have, and they no more than it has. So it first takes any.
func (m *Manager) ResizePod(pod *v1.Pod, change func() error) error {
	if m.cfg.Systemd {
		return change()
	}
	limits := PodLimits(pod, m.cfg.Options)
	open := Limits{Quota: ptr(Unlimited), Period: m.cfg.Options.Period, Memory: ptr(Unlimited)}
	group := Path(m.cfg.Root, ClassOf(pod), pod.UID)
	if err := m.write(group, Files(m.cfg.Layout.Version, open)); err != nil {
		return fmt.Errorf("lift the limits of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	failed := change()
	if err := m.write(group, Files(m.cfg.Layout.Version, limits)); err != nil {
		return errors.Join(failed, fmt.Errorf("limit pod %s/%s: %w", pod.Namespace, pod.Name, err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count(pod, Files(m.cfg.Layout.Version, limits))
	return failed
}

func (m *Manager) exists(group string) bool {
	for _, c := range needed() {
		if _, err := os.Stat(m.Dir(c, group)); err != nil {
			return false
		}
	}
	return true
}

// weighBurstable gives the burstable tier the sum of its pods' shares, so that its pods together weigh as much against
// the Guaranteed ones as they asked for. m.mu is held.
func (m *Manager) weighBurstable() {
	var milliCPU int64
	for _, p := range m.pods {
		if p.class == v1.PodQOSBurstable {
			milliCPU += p.milliCPU
		}
	}
	shares := Shares(milliCPU)
	if shares == m.last {
		return
	}
	group := filepath.Join("/", m.cfg.Root, top, burstable)
	if err := m.write(group, Files(m.cfg.Layout.Version, Limits{Shares: &shares})); err != nil {
		m.cfg.Log.Warn("the cpu weight of the burstable pods could not be set", "err", err)
		return
	}
	m.last = shares
}

// protect lets the tiers above the pods have what the pods request of memory: the kernel gives a group no more protection than
// those above it. m.mu is held.
func (m *Manager) protect() {
	if !m.cfg.Options.Tiered || m.cfg.Layout.Version != V2 {
		return
	}
	sums := [2]int64{}
	for _, p := range m.pods {
		switch p.class {
		case v1.PodQOSGuaranteed:
			sums[0] += p.memory
		case v1.PodQOSBurstable:
			sums[1] += p.memory
		}
	}
	if sums == m.kept {
		return
	}
	all := filepath.Join("/", m.cfg.Root, top)
	err := errors.Join(m.write(all, Files(V2, Limits{Min: ptr(sums[0] + sums[1]), Low: ptr(sums[1])})),
		m.write(filepath.Join(all, burstable), Files(V2, Limits{Low: ptr(sums[1])})))
	if err != nil {
		m.cfg.Log.Warn("the memory that pods request could not be protected", "err", err)
		return
	}
	m.kept = sums
}

// Protected is how much memory of Guaranteed and of Burstable pods is protected, in bytes.
func (m *Manager) Protected() (guaranteed, burstable int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kept[0], m.kept[1]
}

// ensure makes the group in each tree it needs and writes the files.
func (m *Manager) ensure(group string, files []File) error {
	if m.cfg.Layout.Version == V2 {
		if err := m.ensure2(group); err != nil {
			return err
		}
		return m.write(group, files)
	}
	for _, c := range append(needed(), "hugetlb") {
		dir := m.Dir(c, group)
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return m.write(group, files)
}

// ensure2 makes the group and hands the controllers down to it, step by step: a child has a controller only when its
// parent's subtree_control says so.
func (m *Manager) ensure2(group string) error {
	dir := m.cfg.Layout.Trees["cpu"]
	var enable []string
	for _, c := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		if m.cfg.Layout.Trees[c] != "" {
			enable = append(enable, "+"+c)
		}
	}
	for _, step := range strings.Split(strings.Trim(group, "/"), "/") {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(enable, " ")), 0); err != nil {
			return err
		}
		dir = filepath.Join(dir, step)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (m *Manager) write(group string, files []File) error {
	for _, f := range files {
		dir := m.Dir(f.Controller, group)
		if dir == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), []byte(f.Value), 0); err != nil {
			return fmt.Errorf("write %q: %w", f.Value, err)
		}
	}
	return nil
}

// RemovePod removes the pod's group and whatever is below it from every tree. Its containers must be stopped; a process
// that is still exiting is waited for until ctx ends. A group that does not exist is no error.
func (m *Manager) RemovePod(ctx context.Context, uid types.UID) error {
	if m.cfg.Systemd {
		return nil
	}
	for _, class := range []Class{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		for _, root := range m.cfg.Layout.Roots {
			dir := filepath.Join(root, Path(m.cfg.Root, class, uid))
			if err := removeTree(ctx, dir); err != nil {
				return fmt.Errorf("remove the cgroup of pod %s: %w", uid, err)
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pods, uid)
	m.weighBurstable()
	m.protect()
	return nil
}

// Retain removes the groups of all pods but those that there are, by has, when it is their turn: what a crash left behind.
func (m *Manager) Retain(ctx context.Context, has func(types.UID) bool) error {
	if m.cfg.Systemd {
		return nil
	}
	found := map[types.UID]bool{}
	for _, root := range m.cfg.Layout.Roots {
		for _, tier := range []string{"", burstable, bestEffort} {
			podsIn(filepath.Join(root, m.cfg.Root, top, tier), found)
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

// podsIn adds the pods that have a group in dir. A tree without pods has no such directory.
func podsIn(dir string, into map[types.UID]bool) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
			into[types.UID(uid)] = true
		}
	}
}

// removeTree removes a group and those below it. The kernel refuses (EBUSY) while a process is in it.
func removeTree(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; processes in it: %s", err, processes(dir))
		case <-time.After(pause):
		}
	}
}

func processes(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(data)), " ")
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
