package dra

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/skiff-node/skiff/kubelet/dra/driver"
)

// claim is one that is, or is about to be, prepared for pods of this node. The fields are upstream's note.
type claim struct {
	ClaimUID    types.UID
	ClaimName   string
	Namespace   string
	PodUIDs     map[types.UID]struct{}
	DriverState map[string]drivers

	// prepared since this kubelet runs. It is not noted: after a restart of the machine it would be wrong.
	prepared bool
}

// drivers are the devices of one driver.
type drivers struct{ Devices []Device }

// Device is a device as its driver described it when it was prepared.
type Device struct {
	PoolName, DeviceName string
	ShareID              *string
	// RequestNames of the claim that the device is for; empty for all.
	RequestNames []string
	// CDIDeviceIDs are fully qualified names, vendor.example/class=name.
	CDIDeviceIDs []string
}

// newClaim is an allocated claim that nobody here uses yet.
func newClaim(obj *resourceapi.ResourceClaim) *claim {
	c := &claim{ClaimUID: obj.UID, ClaimName: obj.Name, Namespace: obj.Namespace, PodUIDs: map[types.UID]struct{}{}, DriverState: map[string]drivers{}}
	for i := range obj.Status.Allocation.Devices.Results {
		c.DriverState[obj.Status.Allocation.Devices.Results[i].Driver] = drivers{}
	}
	return c
}

func (c *claim) driverNames() []string { return slices.Sorted(maps.Keys(c.DriverState)) }

func (c *claim) ask() *driver.Claim {
	return &driver.Claim{Namespace: c.Namespace, Uid: string(c.ClaimUID), Name: c.ClaimName}
}

// batch is what one driver is asked about at once.
type batch struct {
	driver string
	claims []*driver.Claim
}

// ledger knows which pods use which claims, and what drivers have prepared for them. It only remembers.
type ledger struct {
	mu     sync.Mutex
	claims map[types.UID]*claim
}

// join notes that a pod uses the claims, and returns what has to be prepared for that.
func (l *ledger) join(pod types.UID, wanted []*claim) []batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	var todo []*claim
	for _, w := range wanted {
		c := l.claims[w.ClaimUID]
		if c == nil {
			c = w
			l.claims[c.ClaimUID] = c
		}
		for name := range w.DriverState { // it may have been allocated anew
			if _, ok := c.DriverState[name]; !ok {
				c.DriverState[name], c.prepared = drivers{}, false
			}
		}
		c.PodUIDs[pod] = struct{}{}
		if !c.prepared && !slices.Contains(todo, c) {
			todo = append(todo, c)
		}
	}
	return batches(todo)
}

// batches asks each driver once, about all claims that have devices of it.
func batches(claims []*claim) []batch {
	byDriver := map[string][]*driver.Claim{}
	for _, c := range claims {
		for name := range c.DriverState {
			byDriver[name] = append(byDriver[name], c.ask())
		}
	}
	var list []batch
	for _, name := range slices.Sorted(maps.Keys(byDriver)) {
		list = append(list, batch{name, byDriver[name]})
	}
	return list
}

// got takes in what a driver has prepared, by claim. It replaces what the driver said before.
func (l *ledger) got(driverName string, devices map[string][]*api.Device) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, list := range devices {
		c := l.claims[types.UID(uid)]
		if c == nil {
			continue
		}
		var d drivers
		for _, dev := range list {
			d.Devices = append(d.Devices, Device{PoolName: dev.PoolName, DeviceName: dev.DeviceName, ShareID: dev.ShareId,
				RequestNames: dev.RequestNames, CDIDeviceIDs: dev.CdiDeviceIds})
		}
		c.DriverState[driverName] = d
	}
}

// prepared notes that all drivers of the claims have done their part.
func (l *ledger) prepared(claims []types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, uid := range claims {
		if c := l.claims[uid]; c != nil {
			c.prepared = true
		}
	}
}

// leave takes the pod off the claims that others use as well. Of the others, it returns which they are and what has to be
// taken back; the pod stays on them until they are dropped.
func (l *ledger) leave(pod types.UID) (todo []batch, last []types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var alone []*claim
	for _, uid := range slices.Sorted(maps.Keys(l.claims)) {
		c := l.claims[uid]
		if _, uses := c.PodUIDs[pod]; !uses {
			continue
		}
		if len(c.PodUIDs) > 1 {
			delete(c.PodUIDs, pod)
			continue
		}
		c.prepared = false // from here on a driver may have taken it back
		alone, last = append(alone, c), append(last, uid)
	}
	return batches(alone), last
}

// drop forgets claims.
func (l *ledger) drop(claims []types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, uid := range claims {
		delete(l.claims, uid)
	}
}

// of lists the claims of a pod.
func (l *ledger) of(pod types.UID) []types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []types.UID
	for uid, c := range l.claims {
		if _, uses := c.PodUIDs[pod]; uses {
			list = append(list, uid)
		}
	}
	return list
}

// Holds tells whether anything is or may be prepared for the pod.
func (l *ledger) Holds(pod types.UID) bool { return len(l.of(pod)) > 0 }

// pods lists those that use claims.
func (l *ledger) pods() []types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[types.UID]bool{}
	for _, c := range l.claims {
		for pod := range c.PodUIDs {
			found[pod] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// find returns a pod's claim by its name, as a copy; devices are shared and must not be changed.
func (l *ledger) find(pod types.UID, name string) (claim, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.claims {
		if _, uses := c.PodUIDs[pod]; uses && c.ClaimName == name {
			out := *c
			out.DriverState = maps.Clone(c.DriverState)
			return out, nil
		}
	}
	return claim{}, fmt.Errorf("unable to get information for ResourceClaim %s", name)
}

// UsedBy lists the pods that use any of the devices of a driver.
func (l *ledger) UsedBy(driverName string, devices []driver.Device) []types.UID {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[types.UID]struct{}{}
	for _, c := range l.claims {
		if slices.ContainsFunc(c.DriverState[driverName].Devices, func(d Device) bool {
			return slices.Contains(devices, driver.Device{Pool: d.PoolName, Name: d.DeviceName})
		}) {
			maps.Copy(found, c.PodUIDs)
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// InUse counts the prepared claims by driver; the key <any> is for all of them.
func (l *ledger) InUse() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{"<any>": 0}
	for _, c := range l.claims {
		if !c.prepared {
			continue
		}
		counts["<any>"]++
		for name := range c.DriverState {
			counts[name]++
		}
	}
	return counts
}

func uids(claims []*claim) []types.UID {
	var list []types.UID
	for _, c := range claims {
		list = append(list, c.ClaimUID)
	}
	return list
}

// serves tells whether the device is for that request: a subrequest's devices are for the request it belongs to.
func (d *Device) serves(request string) bool {
	if request == "" || len(d.RequestNames) == 0 {
		return true
	}
	base, _, _ := strings.Cut(request, "/")
	return slices.ContainsFunc(d.RequestNames, func(name string) bool {
		main, _, _ := strings.Cut(name, "/")
		return name == request || main == base
	})
}
