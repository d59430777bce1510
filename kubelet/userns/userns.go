// Package userns gives each pod with a user namespace (hostUsers: false, KEP-127) ids of the host that no other pod has.
//
// What a pod has is in a file of its directory, as upstream writes it: it outlives the kubelet, and goes with the pod. There
// is no other memory, so nothing can disagree with it.
package userns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/whole"
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
	cfg Config
	mu  sync.Mutex
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
	return &Allocator{cfg: cfg}, nil
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

const fileName = "userns"

// Of gives the pod's range; the pod gets one when it has none. Its directory is made if need be.
func (a *Allocator) Of(uid types.UID) (Mapping, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	dir := filepath.Join(a.cfg.PodsDir, string(uid))
	has, err := read(filepath.Join(dir, fileName))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return has, err
	}
	taken, err := a.taken()
	if err != nil {
		return Mapping{}, err
	}
	for i := range a.cfg.MaxPods {
		first := uint32(Unit + i*a.cfg.PodIDs)
		m := Mapping{First: first, Length: uint32(a.cfg.PodIDs)}
		if !overlaps(m, taken) {
			return m, write(dir, m)
		}
	}
	return Mapping{}, fmt.Errorf("all %d ranges of ids for user namespaces are taken", a.cfg.MaxPods)
}

// taken reads the ranges of all pods. A file that cannot be read holds up new pods: its ids might be given out twice.
func (a *Allocator) taken() ([]Mapping, error) {
	paths, err := filepath.Glob(filepath.Join(a.cfg.PodsDir, "*", fileName))
	if err != nil {
		return nil, err
	}
	var list []Mapping
	for _, path := range paths {
		m, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func overlaps(m Mapping, taken []Mapping) bool {
	for _, t := range taken {
		if m.First < t.First+t.Length && t.First < m.First+m.Length {
			return true
		}
	}
	return false
}

func read(path string) (Mapping, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Mapping{}, err
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return Mapping{}, fmt.Errorf("user namespace file %s: %w", path, err)
	}
	if len(f.UIDs) != 1 || len(f.GIDs) != 1 || f.UIDs[0] != f.GIDs[0] || f.UIDs[0].Container != 0 || f.UIDs[0].Length == 0 {
		return Mapping{}, fmt.Errorf("user namespace file %s: want one range from id 0 on, the same for users and groups", path)
	}
	return Mapping{First: f.UIDs[0].Host, Length: f.UIDs[0].Length}, nil
}

func write(dir string, m Mapping) error {
	ids := []idMapping{{Host: m.First, Length: m.Length}}
	raw, err := json.Marshal(file{UIDs: ids, GIDs: ids})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := whole.WriteFile(filepath.Join(dir, fileName), raw, 0o644); err != nil {
		return fmt.Errorf("write user namespace file: %w", err)
	}
	return nil
}
