// Package emptydir is the volume kind emptyDir: a directory that begins empty and lives as long as its pod, on the
// node's disk, in memory (tmpfs) or in huge pages.
package emptydir

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skiff-node/skiff/kubelet/volume"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Kind sets up emptyDir volumes.
type Kind struct {
	// Allocatable is what pods may use of the node; the memory of it bounds volumes in memory. May be nil.
	Allocatable func() v1.ResourceList
}

// Name implements volume.Kind.
func (Kind) Name() string { return "empty-dir" }

// Handles implements volume.Kind.
func (Kind) Handles(src *v1.VolumeSource) bool { return src.EmptyDir != nil }

// Setup implements volume.Kind. The mode and the owner of the directory are set once: from then on they are the
// containers' own, who may have narrowed them (a data directory of mode 0700), as is the content.
func (k Kind) Setup(_ context.Context, req volume.Request) (volume.Place, error) {
	place := volume.Place{Path: req.Dir, Relabel: true}
	done, err := ready(req)
	if err != nil || done {
		return place, err
	}
	src := req.Volume.EmptyDir
	if err := os.MkdirAll(req.Dir, 0o750); err != nil {
		return place, err
	}
	switch {
	case src.Medium == v1.StorageMediumDefault:
	case src.Medium == v1.StorageMediumMemory:
		err = volume.MountTmpfs(req.Dir, k.size(req.Pod, src.SizeLimit))
	case src.Medium == v1.StorageMediumHugePages || strings.HasPrefix(string(src.Medium), string(v1.StorageMediumHugePagesPrefix)):
		err = mountHugePages(req.Dir, req.Pod, src.Medium)
	default:
		err = fmt.Errorf("unknown storage medium %q", src.Medium)
	}
	if err != nil {
		return place, err
	}
	if err := volume.OwnRoot(req.Dir, req.FSGroup()); err != nil {
		return place, err
	}
	return place, setReady(req)
}

// Measure implements volume.Measurer.
func (Kind) Measure(_ context.Context, req volume.Request, at volume.Place) (v1alpha1.FsStats, error) {
	if req.Volume.EmptyDir.Medium == v1.StorageMediumDefault {
		return volume.MeasureTree(at.Path)
	}
	return volume.MeasureFS(at.Path)
}

// mark is the file that says that the volume is complete, where upstream has it.
func mark(req volume.Request) string {
	pod := filepath.Dir(filepath.Dir(filepath.Dir(req.Dir)))
	return filepath.Join(pod, "plugins", "kubernetes.io~empty-dir", req.Volume.Name, "ready")
}

// ready reports whether an earlier Setup was complete. After a reboot what was in memory is gone, and made again.
func ready(req volume.Request) (bool, error) {
	if _, err := os.Stat(mark(req)); err != nil {
		return false, nil //nolint:nilerr // not complete, whatever the reason
	}
	if _, err := os.Stat(req.Dir); err != nil {
		return false, nil //nolint:nilerr // taken away by someone
	}
	if req.Volume.EmptyDir.Medium == v1.StorageMediumDefault {
		return true, nil
	}
	return volume.IsMountPoint(req.Dir)
}

func setReady(req volume.Request) error {
	path := mark(req)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o640)
}

// size is the limit, in bytes, of a volume in memory: the least of what the volume, the pod and the node allow; 0 when
// nothing is known.
func (k Kind) size(pod *v1.Pod, limit *resource.Quantity) int64 {
	least := int64(0)
	lower := func(q *resource.Quantity) {
		if v := q.Value(); v > 0 && (least == 0 || v < least) {
			least = v
		}
	}
	if k.Allocatable != nil {
		list := k.Allocatable()
		lower(list.Memory())
	}
	if q := podMemoryLimit(pod); q != nil {
		lower(q)
	}
	if limit != nil {
		lower(limit)
	}
	return least
}

// podMemoryLimit is the memory that all containers of the pod may use together, or nil when one has no limit.
func podMemoryLimit(pod *v1.Pod) *resource.Quantity {
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[v1.ResourceMemory]; !ok {
			return nil
		}
	}
	limits := helper.PodLimits(pod, helper.PodResourcesOptions{})
	return limits.Memory()
}

// mountHugePages mounts hugetlbfs with the page size that the medium names, or the only one that the pod asks for.
func mountHugePages(dir string, pod *v1.Pod, medium v1.StorageMedium) error {
	size, err := pageSize(pod, medium)
	if err != nil {
		return err
	}
	if mounted, err := volume.IsMountPoint(dir); err != nil || mounted {
		return err
	}
	if err := unix.Mount("nodev", dir, "hugetlbfs", 0, "pagesize="+strconv.FormatInt(size, 10)); err != nil {
		return fmt.Errorf("mount hugetlbfs with pages of %d bytes at %s: %w", size, dir, err)
	}
	return nil
}

func pageSize(pod *v1.Pod, medium v1.StorageMedium) (int64, error) {
	sizes := map[int64]bool{}
	for i := range pod.Spec.InitContainers {
		requestedSizes(pod.Spec.InitContainers[i].Resources.Requests, sizes)
	}
	for i := range pod.Spec.Containers {
		requestedSizes(pod.Spec.Containers[i].Resources.Requests, sizes)
	}
	if text, ok := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)); ok {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return 0, fmt.Errorf("medium %q: %w", medium, err)
		}
		if !sizes[q.Value()] {
			return 0, fmt.Errorf("medium %q: no container of the pod requests pages of this size", medium)
		}
		return q.Value(), nil
	}
	if len(sizes) != 1 {
		return 0, fmt.Errorf("medium HugePages needs exactly one page size among the pod's requests, there are %d: name the size, as in HugePages-2Mi", len(sizes))
	}
	for size := range sizes {
		return size, nil
	}
	return 0, nil
}

func requestedSizes(requests v1.ResourceList, into map[int64]bool) {
	for name := range requests {
		text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if q, err := resource.ParseQuantity(text); ok && err == nil {
			into[q.Value()] = true
		}
	}
}
