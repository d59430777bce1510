package dra

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/dra/driver"
)

// Devices lists the CDI names of the devices that a container has.
func (m *Manager) Devices(p *v1.Pod, c *v1.Container) ([]string, error) {
	list, err := uses(p, c)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, u := range list {
		found, err := m.find(p.UID, u.claim)
		if err != nil {
			return nil, err
		}
		found.each(u.request, func(_ string, d *Device) { names = append(names, d.CDIDeviceIDs...) })
	}
	return unique(names), nil
}

// each calls f for the devices that are for the request, by driver.
func (c *claim) each(request string, f func(driverName string, d *Device)) {
	for _, name := range c.driverNames() {
		for i := range c.DriverState[name].Devices {
			if d := &c.DriverState[name].Devices[i]; d.serves(request) {
				f(name, d)
			}
		}
	}
}

// unique drops what was listed before: a device that two requests name is given once.
func unique(names []string) []string {
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Report adds the health of the containers' devices to a status (KEP-4680).
func (m *Manager) Report(p *v1.Pod, st *v1.PodStatus) {
	if len(p.Spec.ResourceClaims) == 0 || !m.Holds(p.UID) {
		return
	}
	for i := range st.ContainerStatuses {
		cs := &st.ContainerStatuses[i]
		for j := range p.Spec.Containers {
			if c := &p.Spec.Containers[j]; c.Name == cs.Name {
				m.report(p, c, cs)
			}
		}
	}
}

func (m *Manager) report(p *v1.Pod, c *v1.Container, cs *v1.ContainerStatus) {
	var own []v1.ResourceStatus
	for _, rc := range c.Resources.Claims {
		i := slices.IndexFunc(p.Spec.ResourceClaims, func(e v1.PodResourceClaim) bool { return e.Name == rc.Name })
		if i < 0 {
			continue
		}
		ref, err := refer(p, &p.Spec.ResourceClaims[i])
		if err != nil || ref.claim == "" {
			continue
		}
		found, err := m.find(p.UID, ref.claim)
		if err != nil {
			continue
		}
		if s := m.health(&found, rc); len(s.Resources) > 0 {
			own = append(own, s)
		}
	}
	isOwn := func(s v1.ResourceStatus) bool {
		return slices.ContainsFunc(own, func(o v1.ResourceStatus) bool { return o.Name == s.Name })
	}
	if len(own) > 0 {
		cs.AllocatedResourcesStatus = append(slices.DeleteFunc(slices.Clone(cs.AllocatedResourcesStatus), isOwn), own...)
	}
}

// health is the health of the devices of one entry of a container's claims.
func (m *Manager) health(found *claim, rc v1.ResourceClaim) v1.ResourceStatus {
	s := v1.ResourceStatus{Name: v1.ResourceName("claim:" + rc.Name)}
	if rc.Request != "" {
		s.Name += v1.ResourceName("/" + rc.Request)
	}
	found.each(rc.Request, func(name string, d *Device) {
		id := v1.ResourceID(name + "/" + d.PoolName + "/" + d.DeviceName)
		if len(d.CDIDeviceIDs) > 0 {
			id = v1.ResourceID(d.CDIDeviceIDs[0])
		}
		if slices.ContainsFunc(s.Resources, func(r v1.ResourceHealth) bool { return r.ResourceID == id }) {
			return
		}
		h := m.cfg.Drivers.Health(name, driver.Device{Pool: d.PoolName, Name: d.DeviceName})
		r := v1.ResourceHealth{ResourceID: id, Health: h.Status}
		if h.Message != "" {
			r.Message = &h.Message
		}
		s.Resources = append(s.Resources, r)
	})
	return s
}

// Resources tells the pod-resources API which claims a container has, and which devices they are.
func (m *Manager) Resources(p *v1.Pod, c *v1.Container) []*podresources.DynamicResource {
	list, err := uses(p, c)
	if err != nil {
		return nil
	}
	named := map[string]bool{}
	for _, u := range list {
		named[u.claim] = true
	}
	var out []*podresources.DynamicResource
	for _, name := range slices.Sorted(maps.Keys(named)) {
		found, err := m.find(p.UID, name)
		if err != nil {
			continue
		}
		r := &podresources.DynamicResource{ClaimName: found.ClaimName, ClaimNamespace: found.Namespace}
		found.each("", func(driverName string, d *Device) {
			cr := &podresources.ClaimResource{DriverName: driverName, PoolName: d.PoolName, DeviceName: d.DeviceName, ShareId: d.ShareID}
			for _, id := range d.CDIDeviceIDs {
				cr.CdiDevices = append(cr.CdiDevices, &podresources.CDIDevice{Name: id})
			}
			r.ClaimResources = append(r.ClaimResources, cr)
		})
		out = append(out, r)
	}
	return out
}
