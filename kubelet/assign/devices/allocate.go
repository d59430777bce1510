package devices

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// callTime bounds a plugin's answer to Allocate and GetPreferredAllocation. Upstream waits for ever.
const callTime = time.Minute

// wants lists what the container asks of device plugins, by resource. What a resource claim fulfils (KEP-5004) is not theirs.
// Extended resources cannot be overcommitted, so limits are requests.
func (t *table) wants(p *v1.Pod, c *v1.Container) map[string]int {
	want := map[string]int{}
	for name, q := range c.Resources.Limits {
		if q.Value() > 0 && strings.Contains(string(name), "/") && t.managed(string(name)) && !claimed(p, c.Name, string(name)) {
			want[string(name)] = int(q.Value())
		}
	}
	return want
}

func claimed(p *v1.Pod, container, resource string) bool {
	x := p.Status.ExtendedResourceClaimStatus
	return x != nil && slices.ContainsFunc(x.RequestMappings, func(m v1.ContainerExtendedResourceRequest) bool {
		return m.ContainerName == container && m.ResourceName == resource
	})
}

// Allocate gives the container the devices that it asks for, if it has not got them: near to those NUMA nodes where that is
// possible. Init containers have to be given theirs before the others.
func (m *Manager) Allocate(p *v1.Pod, c *v1.Container, near numa.Mask) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	m.mu.Lock()
	want := m.table.wants(p, c)
	m.mu.Unlock()
	if len(want) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		ids, err := (*giver)(m).pick(p, c, name, want[name], near)
		if err != nil {
			return err
		}
		if ids.Len() == 0 {
			continue
		}
		if err := (*giver)(m).give(p.UID, c.Name, name, ids); err != nil {
			return err
		}
	}
	return nil
}

// Release takes back all that the pod has been given.
func (m *Manager) Release(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.table.grants[uid]; ok {
		delete(m.table.grants, uid)
		m.outdated()
	}
}

// giver is the manager as it gives devices to one container.
type giver Manager

// pick chooses devices for the container; none when it has them.
func (m *giver) pick(p *v1.Pod, c *v1.Container, name string, count int, near numa.Mask) (sets.Set[string], error) {
	m.mu.Lock()
	r, has := m.table.resources[name], m.table.has(p.UID, c.Name, name)
	healthy := r.healthy()
	q := request{count: count, reuse: m.reusable(p, c, name)}
	q.sort(r, healthy.Difference(m.table.used(name)), near)
	m.mu.Unlock()
	switch {
	case has != nil && has.Len() != count:
		return nil, fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", p.UID, c.Name, name, has.Len(), count)
	case r == nil:
		return nil, fmt.Errorf("cannot allocate unregistered device %s", name)
	case healthy.Len() == 0:
		return nil, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
	case !healthy.IsSuperset(has):
		return nil, fmt.Errorf("previously allocated devices are no longer healthy; cannot allocate unhealthy devices %s", name)
	case has != nil:
		return nil, nil
	}
	return choose(name, q, func(available, must sets.Set[string], size int) (sets.Set[string], error) {
		return m.preferred(name, available, must, size)
	})
}

// reusable are devices of the pod's init containers. The mutex is held.
func (m *giver) reusable(p *v1.Pod, c *v1.Container, name string) sets.Set[string] {
	return reusable(p, c.Name, func(container string) sets.Set[string] { return m.table.has(p.UID, container, name) })
}

// asked is the plugin that is asked about a resource, nil when there is none.
func (m *giver) asked(name string) *endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.table.resources[name]
	if r == nil || len(r.plugins) == 0 {
		return nil
	}
	return r.plugins[len(r.plugins)-1]
}

func (m *giver) preferred(name string, available, must sets.Set[string], size int) (sets.Set[string], error) {
	e := m.asked(name)
	if e == nil {
		return nil, fmt.Errorf("endpoint not found in cache for a registered resource: %s", name)
	}
	if !e.options.GetGetPreferredAllocationAvailable() {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	resp, err := e.api.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{{
		AvailableDeviceIDs: sets.List(available), MustIncludeDeviceIDs: sets.List(must), AllocationSize: int32(size)}}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(resp.ContainerResponses) == 0 {
		return nil, nil
	}
	return sets.New(resp.ContainerResponses[0].DeviceIDs...), nil
}

// give asks the plugin for the devices and notes its answer.
func (m *giver) give(uid types.UID, container, name string, ids sets.Set[string]) error {
	e := m.asked(name)
	if e == nil {
		return fmt.Errorf("unknown Device Plugin %s", name)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	resp, err := e.api.Allocate(ctx, &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: sets.List(ids)}}})
	if m.cfg.Counts != nil {
		m.cfg.Counts.Allocated(name, time.Since(began))
	}
	if err != nil {
		return err
	}
	if len(resp.ContainerResponses) == 0 {
		return fmt.Errorf("no containers return in allocation response %v", resp)
	}
	if err := os.MkdirAll(filepath.Join(m.cfg.PodsDir, string(uid)), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	m.mu.Lock()
	m.table.grant(uid, container, name, grant{ids: m.table.resources[name].places(ids), response: resp.ContainerResponses[0]})
	m.mu.Unlock()
	return (*Manager)(m).save()
}

// Hints tells where the container, or with nil the whole pod, could have what it asks for.
func (m *Manager) Hints(p *v1.Pod, c *v1.Container) numa.Hints {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := numa.Hints{}
	if c != nil {
		for name, count := range m.table.wants(p, c) {
			g := (*giver)(m)
			out[name] = g.hint(name, count, m.table.has(p.UID, c.Name, name), g.reusable(p, c, name))
		}
		return out
	}
	for name, count := range m.table.podWants(p) {
		var has sets.Set[string]
		for container := range m.table.grants[p.UID] {
			has = has.Union(m.table.has(p.UID, container, name))
		}
		out[name] = (*giver)(m).hint(name, count, has, nil)
	}
	return out
}

// hint is that of one resource. Of what is allocated already, only that counts.
func (m *giver) hint(name string, count int, has, reuse sets.Set[string]) []numa.Hint {
	r := m.table.resources[name]
	if !r.aligned() {
		return nil
	}
	if has.Len() > 0 {
		if has.Len() != count {
			return []numa.Hint{}
		}
		return hints(r, m.cfg.Nodes, has, nil, count)
	}
	free := r.healthy().Difference(m.table.used(name))
	if free.Union(reuse).Len() < count {
		return []numa.Hint{}
	}
	return hints(r, m.cfg.Nodes, free, reuse, count)
}
