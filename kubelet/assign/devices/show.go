package devices

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/assign/devices/checkpoint"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// podWants is what the pod as a whole asks of device plugins.
func (t *table) podWants(p *v1.Pod) map[string]int {
	want := map[string]int{}
	for name, q := range resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{ExcludeOverhead: true}) {
		if q.Value() > 0 && t.managed(string(name)) {
			want[string(name)] = int(q.Value())
		}
	}
	return want
}

// Extra is what a container that is about to start gets for its devices. Plugins that want to know before are told. A container
// that asks for devices and has none noted is given some now.
func (m *Manager) Extra(ctx context.Context, p *v1.Pod, c *v1.Container) (*spec.Extra, error) {
	m.mu.Lock()
	want := m.table.wants(p, c)
	m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		m.mu.Lock()
		ids := m.table.has(p.UID, c.Name, name)
		m.mu.Unlock()
		if ids == nil {
			if err := m.Allocate(p, c, 0); err != nil {
				return nil, err
			}
			m.mu.Lock()
			ids = m.table.has(p.UID, c.Name, name)
			m.mu.Unlock()
		}
		if err := (*giver)(m).preStart(ctx, name, ids); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return extra(m.table.grants[p.UID][c.Name]), nil
}

// preStart tells the plugin that a container with its devices is about to start, if it wants to know.
func (m *giver) preStart(ctx context.Context, name string, ids sets.Set[string]) error {
	e := m.asked(name)
	if e == nil || !e.options.GetPreStartRequired() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, api.KubeletPreStartContainerRPCTimeoutInSecs*time.Second)
	defer cancel()
	if _, err := e.api.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: sets.List(ids)}); err != nil {
		return fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", err)
	}
	return nil
}

// extra translates what plugins have answered. What two of them give to one place is given once.
func extra(grants map[string]grant) *spec.Extra {
	out := &spec.Extra{Annotations: map[string]string{}}
	seen := sets.New[string]()
	fresh := func(kind, key string) bool {
		known := seen.Has(kind + key)
		seen.Insert(kind + key)
		return !known
	}
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		r := grants[name].response
		for _, key := range slices.Sorted(maps.Keys(r.Envs)) {
			if fresh("env ", key) {
				out.Env = append(out.Env, spec.Var{Name: key, Value: r.Envs[key]})
			}
		}
		for _, d := range r.Devices {
			if fresh("device ", d.ContainerPath) {
				out.Devices = append(out.Devices, &cri.Device{HostPath: d.HostPath, ContainerPath: d.ContainerPath, Permissions: d.Permissions})
			}
		}
		for _, mount := range r.Mounts {
			if fresh("mount ", mount.ContainerPath) {
				out.Mounts = append(out.Mounts, &cri.Mount{HostPath: mount.HostPath, ContainerPath: mount.ContainerPath, Readonly: mount.ReadOnly})
			}
		}
		for key, value := range r.Annotations {
			if fresh("annotation ", key) {
				out.Annotations[key] = value
			}
		}
		for _, d := range r.CdiDevices {
			if fresh("cdi ", d.Name) {
				out.CDIDevices = append(out.CDIDevices, &cri.CDIDevice{Name: d.Name})
			}
		}
	}
	return out
}

// Capacity is how much of each resource the node has, and how much of it is well. A resource without a plugin has none of it to
// give; without one for 5 minutes, none at all.
func (m *Manager) Capacity() (capacity, allocatable v1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	for name, r := range m.table.resources {
		all, well := len(r.devices), r.healthy().Len()
		if r.expired(time.Now()) {
			all = 0
		}
		capacity[v1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[v1.ResourceName(name)] = *resource.NewQuantity(int64(well), resource.DecimalSI)
	}
	return capacity, allocatable
}

// Admissible raises what pods may have to what they have already, so that a device that is lost does not keep others out.
func (m *Manager) Admissible(allocatable v1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := sets.New[string]()
	for _, containers := range m.table.grants {
		for _, grants := range containers {
			names.Insert(slices.Collect(maps.Keys(grants))...)
		}
	}
	for name := range names {
		used := int64(m.table.used(name).Len())
		if q, ok := allocatable[v1.ResourceName(name)]; !ok || q.Value() < used {
			allocatable[v1.ResourceName(name)] = *resource.NewQuantity(used, resource.DecimalSI)
		}
	}
}

// Health tells how the devices of the pod's containers are (KEP-4680), by container name.
func (m *Manager) Health(p *v1.Pod) map[string][]v1.ResourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]v1.ResourceStatus{}
	for container, grants := range m.table.grants[p.UID] {
		for _, name := range slices.Sorted(maps.Keys(grants)) {
			st := v1.ResourceStatus{Name: v1.ResourceName(name)}
			for _, id := range sets.List(grants[name].devices()) {
				st.Resources = append(st.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: m.table.resources[name].health(id)})
			}
			out[container] = append(out[container], st)
		}
	}
	return out
}

// health of a device is unknown without a plugin that tells of it.
func (r *offer) health(id string) v1.ResourceHealthStatus {
	if r == nil || len(r.plugins) == 0 {
		return v1.ResourceHealthStatusUnknown
	}
	d, known := r.devices[id]
	switch {
	case !known:
		return v1.ResourceHealthStatusUnknown
	case d.healthy:
		return v1.ResourceHealthStatusHealthy
	}
	return v1.ResourceHealthStatusUnhealthy
}

// Container tells which devices a container has: one entry for each, and for each NUMA node that it is near to.
func (m *Manager) Container(p *v1.Pod, container string, out *podresources.ContainerResources) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, g := range m.table.grants[p.UID][container] {
		for node, ids := range g.ids {
			for _, id := range ids {
				out.Devices = append(out.Devices, shown(name, id, int(node)))
			}
		}
	}
	inOrder(out.Devices)
}

// Allocatable tells which devices are well.
func (m *Manager) Allocatable(out *podresources.AllocatableResourcesResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.table.resources {
		for node, ids := range r.places(r.healthy()) {
			for _, id := range ids {
				out.Devices = append(out.Devices, shown(name, id, int(node)))
			}
		}
	}
	inOrder(out.Devices)
}

func shown(name, id string, node int) *podresources.ContainerDevices {
	d := &podresources.ContainerDevices{ResourceName: name, DeviceIds: []string{id}}
	if node != checkpoint.NoNode {
		d.Topology = &podresources.TopologyInfo{Nodes: []*podresources.NUMANode{{ID: int64(node)}}}
	}
	return d
}

func inOrder(list []*podresources.ContainerDevices) {
	slices.SortStableFunc(list, func(a, b *podresources.ContainerDevices) int {
		return cmp.Or(cmp.Compare(a.ResourceName, b.ResourceName), cmp.Compare(a.DeviceIds[0], b.DeviceIds[0]),
			cmp.Compare(fmt.Sprint(a.Topology), fmt.Sprint(b.Topology)))
	})
}
