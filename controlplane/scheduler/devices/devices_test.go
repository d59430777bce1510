package devices

import (
	"testing"

	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/structured"
)

// claims are a world with nothing but claims, as of some version of the API.
type claims struct {
	list []*resourceapi.ResourceClaim
	asOf string
	// change happens between the questions for the version and for the claims.
	change func(*claims)
}

func (w *claims) Claim(string, string) *resourceapi.ResourceClaim { return nil }
func (w *claims) Classes() []*resourceapi.DeviceClass             { return nil }
func (w *claims) Slices() []*resourceapi.ResourceSlice            { return nil }
func (w *claims) TaintRules() []*resourceapi.DeviceTaintRule      { return nil }
func (w *claims) ClaimsAsOf() string                              { defer w.changed(); return w.asOf }
func (w *claims) Claims() []*resourceapi.ResourceClaim            { defer w.changed(); return w.list }

func (w *claims) changed() {
	if w.change != nil {
		w.change(w)
		w.change = nil
	}
}

func allocated(uid, version string) *resourceapi.ResourceClaim {
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid), ResourceVersion: version}}
	c.Status.Allocation = &resourceapi.AllocationResult{Devices: resourceapi.DeviceAllocationResult{
		Results: []resourceapi.DeviceRequestAllocationResult{{Driver: "d", Pool: "p", Device: uid}}}}
	return c
}

// TestGone: what this scheduler has written counts until the cache could have it. From then on only what the cache has counts, also if
// nobody ever told that the claim is gone.
func TestGone(t *testing.T) {
	const written = "20"
	for _, c := range []struct {
		name, asOf string
		list       []*resourceapi.ResourceClaim
		change     func(*claims)
		unwritten  bool
		want       bool
	}{
		{name: "the cache lags behind", asOf: "19", want: true},
		{name: "it is not known what the cache has", want: true},
		{name: "the cache was filled anew, after the claim was gone", asOf: "100"},
		{name: "the cache has just what was written before the claim went", asOf: written},
		{name: "the cache has it", asOf: written, list: []*resourceapi.ResourceClaim{allocated("c", written)}, want: true},
		{name: "the cache gets it meanwhile", asOf: "19", change: func(w *claims) { w.asOf, w.list = "25", []*resourceapi.ResourceClaim{allocated("c", written)} }, want: true},
		{name: "the cache has it as it was before, and as of a version that others made", asOf: "19", list: []*resourceapi.ResourceClaim{{ObjectMeta: metav1.ObjectMeta{UID: "c", ResourceVersion: "5"}}}, want: true},
		{name: "it is yet to be written", asOf: "100", unwritten: true, want: true},
	} {
		w := &claims{list: c.list, asOf: c.asOf, change: c.change}
		a := New(w)
		if claim := allocated("c", written); c.unwritten {
			a.assumed["c"] = &assumption{claim: claim}
		} else {
			a.wrote(&granted{claim: claim})
		}
		for range 2 { // what is forgotten stays so
			if got := a.taken().AllocatedDevices.Has(structured.MakeDeviceID("d", "p", "c")); got != c.want {
				t.Errorf("%s: taken %v", c.name, got)
			}
		}
		if _, kept := a.assumed["c"]; !c.want && kept {
			t.Errorf("%s: it is kept", c.name)
		}
	}
}
