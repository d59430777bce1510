// Package userns gives each pod with a user namespace (hostUsers: false, KEP-127) ids of the host that no other pod has.
//
// What a pod has is in a file of its directory, as upstream writes it: it outlives the kubelet, and goes with the pod. There
// is no other memory, so nothing can disagree with it.
package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/podfile"
)

// Unit is the length of ranges: a pod has one or several whole ones.
const Unit = 65536

// Mapping is a pod's range: its id 0 is the host's id First, and so on.
type Mapping struct{ First, Length uint32 }

// Config of an Allocator.
type Config struct {
	// PodsDir holds the pods' directories. Required.
	PodsDir string
	// PodIDs is how many ids a pod gets, a multiple of Unit; zero means Unit.
	PodIDs int64
	// MaxPods is how many pods the node can have: that many ranges there are, from id Unit on. Required.
	MaxPods int64
}

// Allocator gives out ranges.
type Allocator struct {
	cfg   Config
	files podfile.Kind[Mapping]
	mu    sync.Mutex
}

// New checks the configuration.
func New(cfg Config) (*Allocator, error) {
	if cfg.PodIDs == 0 {
		cfg.PodIDs = Unit
	}
	const ids = 1 << 32
	if cfg.PodIDs < 0 || cfg.PodIDs%Unit != 0 || cfg.PodIDs >= ids {
		return nil, fmt.Errorf("userNamespaces.idsPerPod: %d must be a multiple of %d below %d", cfg.PodIDs, Unit, int64(ids))
	}
	if most := (ids - Unit) / cfg.PodIDs; cfg.MaxPods > most {
		cfg.MaxPods = most
	}
	files := podfile.Kind[Mapping]{PodsDir: cfg.PodsDir, Name: "userns", Says: "which ids the pod's user namespace has", Early: true}
	return &Allocator{cfg: cfg, files: files}, nil
}

// Wanted tells whether the pod has a user namespace of its own.
func Wanted(p *v1.Pod) bool { return p.Spec.HostUsers != nil && !*p.Spec.HostUsers }

// file is what a pod's file holds.
type file struct {
	UIDs []idMapping `json:"uidMappings"`
	GIDs []idMapping `json:"gidMappings"`
}

type idMapping struct {
	Host      uint32 `json:"hostId"`
	Container uint32 `json:"containerId"`
	Length    uint32 `json:"length"`
}

// UnmarshalJSON refuses what is no one range.
func (m *Mapping) UnmarshalJSON(raw []byte) error {
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if len(f.UIDs) != 1 || len(f.GIDs) != 1 || f.UIDs[0] != f.GIDs[0] || f.UIDs[0].Container != 0 || f.UIDs[0].Length == 0 {
		return errors.New("want one range from id 0 on, the same for users and groups")
	}
	*m = Mapping{First: f.UIDs[0].Host, Length: f.UIDs[0].Length}
	return nil
}

// MarshalJSON writes it as upstream does.
func (m Mapping) MarshalJSON() ([]byte, error) {
	ids := []idMapping{{Host: m.First, Length: m.Length}}
	return json.Marshal(file{UIDs: ids, GIDs: ids})
}

// Of gives the pod's range; the pod gets one when it has none. Its directory is made if need be.
func (a *Allocator) Of(uid types.UID) (Mapping, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	has, ok, err := a.files.Load(uid)
	if ok || err != nil {
		return has, err
	}
	taken, err := a.files.All() // one that cannot be read holds up new pods: its ids might be given out twice
	if err != nil {
		return Mapping{}, err
	}
	for i := range a.cfg.MaxPods {
		first := uint32(Unit + i*a.cfg.PodIDs)
		m := Mapping{First: first, Length: uint32(a.cfg.PodIDs)}
		if !overlaps(m, taken) {
			return m, a.files.Save(uid, m)
		}
	}
	return Mapping{}, fmt.Errorf("all %d ranges of ids for user namespaces are taken", a.cfg.MaxPods)
}

func overlaps(m Mapping, taken map[types.UID]Mapping) bool {
	for _, t := range taken {
		if m.First < t.First+t.Length && t.First < m.First+m.Length {
			return true
		}
	}
	return false
}
