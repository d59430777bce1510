package devices

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"google.golang.org/protobuf/proto"

	"github.com/skiff-node/skiff/kubelet/assign/devices/checkpoint"
)

// gracePeriod is how long a resource stays known without a plugin.
const gracePeriod = 5 * time.Minute

// table is all that is known. It is plain memory.
type table struct {
	resources map[string]*offer // by name
	// grants by pod, container and resource.
	grants map[types.UID]map[string]map[string]grant
}

// offer is what one or more plugins offer.
type offer struct {
	devices map[string]device
	// plugins that serve it, the newest last: it is the one that is asked. While a plugin is replaced there are two.
	plugins []*endpoint
	gone    time.Time // since when there is no plugin
}

// device as its plugin tells of it.
type device struct {
	healthy bool
	nodes   []int // NUMA nodes it is near to
}

func (d device) equal(other device) bool {
	return d.healthy == other.healthy && slices.Equal(d.nodes, other.nodes)
}

// grant is what one container has of one resource.
type grant struct {
	ids      checkpoint.DevicesPerNUMA
	response *api.ContainerAllocateResponse
}

func newTable() table {
	return table{resources: map[string]*offer{}, grants: map[types.UID]map[string]map[string]grant{}}
}

// load takes in what the file says. Plugins have not registered yet, so there are no devices.
func (t *table) load(entries []checkpoint.PodDevicesEntry, registered map[string][]string, now time.Time) []error {
	var errs []error
	for _, e := range entries {
		g := grant{ids: e.DeviceIDs, response: &api.ContainerAllocateResponse{}}
		if err := proto.Unmarshal(e.AllocResp, g.response); err != nil {
			errs = append(errs, fmt.Errorf("pod %s, container %s, resource %s: %w", e.PodUID, e.ContainerName, e.ResourceName, err))
			continue
		}
		t.grant(types.UID(e.PodUID), e.ContainerName, e.ResourceName, g)
	}
	for name := range registered {
		t.resources[name] = &offer{gone: now}
	}
	return errs
}

// entries are the grants as they are in the file, in an order that does not change.
func (t *table) entries() ([]checkpoint.PodDevicesEntry, error) {
	list := []checkpoint.PodDevicesEntry{}
	for uid, containers := range t.grants {
		for container, grants := range containers {
			for name, g := range grants {
				list = append(list, checkpoint.PodDevicesEntry{PodUID: string(uid), ContainerName: container, ResourceName: name, DeviceIDs: g.ids})
			}
		}
	}
	slices.SortFunc(list, func(a, b checkpoint.PodDevicesEntry) int {
		return cmp.Or(cmp.Compare(a.PodUID, b.PodUID), cmp.Compare(a.ContainerName, b.ContainerName), cmp.Compare(a.ResourceName, b.ResourceName))
	})
	for i := range list {
		e, err := &list[i], error(nil)
		g := t.grants[types.UID(e.PodUID)][e.ContainerName][e.ResourceName]
		if e.AllocResp, err = proto.Marshal(g.response); err != nil {
			return nil, fmt.Errorf("note the devices of pod %s: %w", e.PodUID, err)
		}
	}
	return list, nil
}

// registered are the resources to be remembered, with their healthy devices.
func (t *table) registered() map[string][]string {
	m := map[string][]string{}
	for name, r := range t.resources {
		if !r.expired(time.Now()) {
			m[name] = sets.List(r.healthy())
		}
	}
	return m
}

func (t *table) grant(uid types.UID, container, resource string, g grant) {
	if t.grants[uid] == nil {
		t.grants[uid] = map[string]map[string]grant{}
	}
	if t.grants[uid][container] == nil {
		t.grants[uid][container] = map[string]grant{}
	}
	t.grants[uid][container][resource] = g
}

// has is what a container has of a resource; nil for nothing.
func (t *table) has(uid types.UID, container, resource string) sets.Set[string] {
	g, ok := t.grants[uid][container][resource]
	if !ok {
		return nil
	}
	return g.devices()
}

func (g grant) devices() sets.Set[string] {
	all := sets.New[string]()
	for _, ids := range g.ids {
		all.Insert(ids...)
	}
	return all
}

// managed tells whether the resource is one of device plugins.
func (t *table) managed(name string) bool {
	if r := t.resources[name]; r != nil && !r.expired(time.Now()) {
		return true
	}
	for _, containers := range t.grants {
		for _, grants := range containers {
			if _, ok := grants[name]; ok {
				return true
			}
		}
	}
	return false
}

// used are the devices of a resource that containers have.
func (t *table) used(name string) sets.Set[string] {
	all := sets.New[string]()
	for _, containers := range t.grants {
		for _, grants := range containers {
			if g, ok := grants[name]; ok {
				all = all.Union(g.devices())
			}
		}
	}
	return all
}

// owners are the pods that have one of these devices.
func (t *table) owners(name string, ids sets.Set[string]) []types.UID {
	var uids []types.UID
	for uid, containers := range t.grants {
		for _, grants := range containers {
			if g, ok := grants[name]; ok && g.devices().HasAny(ids.UnsortedList()...) {
				uids = append(uids, uid)
				break
			}
		}
	}
	return uids
}

// healthy are the devices that may be given away. Without a plugin there are none.
func (r *offer) healthy() sets.Set[string] {
	all := sets.New[string]()
	if r == nil || len(r.plugins) == 0 {
		return all
	}
	for id, d := range r.devices {
		if d.healthy {
			all.Insert(id)
		}
	}
	return all
}

func (r *offer) expired(now time.Time) bool {
	return len(r.plugins) == 0 && now.Sub(r.gone) > gracePeriod
}

// aligned tells whether it matters where a device of the resource is.
func (r *offer) aligned() bool {
	if r == nil {
		return false
	}
	for _, d := range r.devices {
		if len(d.nodes) > 0 {
			return true
		}
	}
	return false
}

// places lists devices by NUMA node, as the file does.
func (r *offer) places(ids sets.Set[string]) checkpoint.DevicesPerNUMA {
	out := checkpoint.DevicesPerNUMA{}
	for _, id := range sets.List(ids) {
		nodes := r.devices[id].nodes
		if len(nodes) == 0 {
			nodes = []int{checkpoint.NoNode}
		}
		for _, n := range nodes {
			out[int64(n)] = append(out[int64(n)], id)
		}
	}
	return out
}
