package volume

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Measurer is a Kind whose volumes tell how full they are in a way of their own. Those of other kinds are measured as the
// file system they lie on.
type Measurer interface {
	Kind
	Measure(ctx context.Context, req Request, at Place) (v1alpha1.FsStats, error)
}

// placed is a volume that has been set up.
type placed struct {
	kind Kind
	req  Request
	at   Place
}

// Plugin is how upstream calls the kind: kubernetes.io/empty-dir.
func Plugin(k Kind) string { return "kubernetes.io/" + k.Name() }

// Placed counts, by plugin, the volumes that are set up.
func (m *Manager) Placed() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	sums := map[string]int{}
	for _, s := range m.pods {
		for _, p := range s.placed {
			sums[Plugin(p.kind)]++
		}
	}
	return sums
}

// Wanted counts, by plugin, the volumes that the pods want. Persistent ones count as what they were found to be, and as CSI
// until they are found.
func (m *Manager) Wanted(pods []*v1.Pod) map[string]int {
	sums := map[string]int{}
	for _, p := range pods {
		for i := range p.Spec.Volumes {
			if name := m.plugin(p.UID, &p.Spec.Volumes[i]); name != "" {
				sums[name]++
			}
		}
	}
	return sums
}

func (m *Manager) plugin(uid types.UID, vol *v1.Volume) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.pods[uid]; s != nil {
		if p, ok := s.placed[vol.Name]; ok {
			return Plugin(p.kind)
		}
	}
	for _, k := range m.cfg.Kinds {
		if k.Handles(&vol.VolumeSource) {
			return Plugin(k)
		}
	}
	if vol.PersistentVolumeClaim != nil || vol.Ephemeral != nil {
		return "kubernetes.io/csi"
	}
	return "" // the runtime's
}

// usage keeps what was measured of a pod's volumes for as long as Config.UsageAge says: asking drivers and counting files is
// not free.
type usage struct {
	mu    sync.Mutex // held while measuring, so that each measurement is made once
	at    time.Time
	stats []v1alpha1.VolumeStats
}

// Usage tells how full the volumes of a pod are, sorted by name, as of at most Config.UsageAge ago. A volume that cannot be
// measured, such as a raw device of a driver that does not tell, is left out. A pod that is not known has none.
func (m *Manager) Usage(ctx context.Context, uid types.UID) []v1alpha1.VolumeStats {
	m.mu.Lock()
	s := m.pods[uid]
	var volumes []placed
	if s != nil {
		for _, p := range s.placed {
			volumes = append(volumes, p)
		}
	}
	m.mu.Unlock()
	if s == nil {
		return nil
	}
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	if time.Since(s.usage.at) < m.cfg.UsageAge && len(s.usage.stats) > 0 {
		return s.usage.stats
	}
	var list []v1alpha1.VolumeStats
	for _, v := range volumes {
		got, err := measure(ctx, v)
		if err != nil {
			m.cfg.Log.Debug("a volume could not be measured", "podUID", uid, "volume", v.req.Volume.Name, "err", err)
			continue
		}
		one := v1alpha1.VolumeStats{FsStats: got, Name: v.req.Volume.Name}
		if c := v.req.Claimed; c != nil && c.Claim != nil {
			one.PVCRef = &v1alpha1.PVCReference{Namespace: c.Claim.Namespace, Name: c.Claim.Name}
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b v1alpha1.VolumeStats) int { return cmp.Compare(a.Name, b.Name) })
	s.usage.at, s.usage.stats = time.Now(), list
	return list
}

func measure(ctx context.Context, v placed) (v1alpha1.FsStats, error) {
	if m, ok := v.kind.(Measurer); ok {
		return m.Measure(ctx, v.req, v.at)
	}
	if v.at.Device {
		return v1alpha1.FsStats{}, fmt.Errorf("a raw device has no file system: %w", ErrUnsupported)
	}
	return MeasureFS(v.at.Path)
}

// MeasureFS tells how full the file system at path is.
func MeasureFS(path string) (v1alpha1.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return v1alpha1.FsStats{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	block := uint64(st.Frsize)
	value := func(v uint64) *uint64 { return &v }
	return v1alpha1.FsStats{Time: metav1.Now(),
		CapacityBytes: value(st.Blocks * block), AvailableBytes: value(st.Bavail * block), UsedBytes: value((st.Blocks - st.Bfree) * block),
		Inodes: value(st.Files), InodesFree: value(st.Ffree), InodesUsed: value(st.Files - st.Ffree)}, nil
}

// MeasureTree is MeasureFS for a directory that shares its file system with others: what is used is what lies in it, as
// du counts, links to one file once. What vanishes meanwhile counts nothing.
func MeasureTree(dir string) (v1alpha1.FsStats, error) {
	st, err := MeasureFS(dir)
	if err != nil {
		return st, err
	}
	var bytes, inodes uint64
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has just gone
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just gone
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = st.Nlink > 1 && !d.IsDir()
			bytes += uint64(st.Blocks) * 512
			inodes++
		}
		return nil
	})
	st.UsedBytes, st.InodesUsed = &bytes, &inodes
	return st, err
}
