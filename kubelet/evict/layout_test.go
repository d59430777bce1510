package evict

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestLayoutOf(t *testing.T) {
	for devices, want := range map[[3]uint64]Layout{
		{1, 1, 1}: {},
		{1, 2, 2}: {Images: true},
		{1, 2, 1}: {Images: true, Split: true},
		{1, 1, 2}: {Images: true, Split: true}, // layers alone are apart: as upstream has it
		{1, 2, 3}: {Images: true, Split: true},
	} {
		if got := LayoutOf(devices[0], devices[1], devices[2]); got != want {
			t.Errorf("node, images and layers on %v: %+v, want %+v", devices, got, want)
		}
	}
}

// TestLayouts is upstream's table of what counts and what is removed, by signal (buildSignalToRankFunc, buildSignalToNodeReclaimFuncs).
// The pods of the table are named by what they fill.
func TestLayouts(t *testing.T) {
	one, images, split := Layout{}, Layout{Images: true}, Layout{Images: true, Split: true}
	fill := func(name string, root, logs, volume int64) Pod {
		p := podOf(name, 0, "", 0)
		p.Containers["c"] = Use{Root: Disk{root * mi, root}, Logs: Disk{logs * mi, logs}}
		p.Volumes["v"] = Disk{volume * mi, volume}
		return p
	}
	pods := []Pod{fill("layer", 50, 0, 0), fill("logs", 0, 40, 0), fill("volume", 0, 0, 45), fill("all", 20, 21, 20)}
	for _, tc := range []struct {
		layout Layout
		signal Signal
		order  string // of pods that are chosen, one after the other
		before Reclaim
	}{
		{one, NodeFs, "all layer volume logs", Reclaim{true, true}},
		{one, NodeFsInodes, "all layer volume logs", Reclaim{true, true}},
		{one, ImageFs, "all layer volume logs", Reclaim{true, true}},
		{one, ImageInodes, "all layer volume logs", Reclaim{true, true}},
		{images, NodeFs, "volume all logs layer", Reclaim{}},
		{images, NodeFsInodes, "volume all logs layer", Reclaim{}},
		{images, ImageFs, "layer all logs volume", Reclaim{true, true}},
		{images, ImageInodes, "layer all logs volume", Reclaim{true, true}},
		{split, NodeFs, "all layer volume logs", Reclaim{Containers: true}},
		{split, NodeFsInodes, "all layer volume logs", Reclaim{Containers: true}},
		{split, ImageFs, "layer logs volume all", Reclaim{Images: true}}, // nobody has more than others: as they come
		{split, ImageInodes, "layer logs volume all", Reclaim{Images: true}},
		{images, Memory, "layer logs volume all", Reclaim{}},
		{one, PIDs, "layer logs volume all", Reclaim{}},
	} {
		left, order := append([]Pod(nil), pods...), ""
		for len(left) > 0 {
			v := Choose(Shortage{Threshold{Signal: tc.signal, Quantity: 100}, Value{50, 1000}}, tc.layout, left)
			order += " " + v.Pod.Name
			for i := range left {
				if left[i].Pod == v.Pod {
					left = append(left[:i:i], left[i+1:]...)
					break
				}
			}
		}
		if order[1:] != tc.order || tc.layout.reclaim(tc.signal) != tc.before {
			t.Errorf("%+v, %s: %q after %+v, want %q after %+v", tc.layout, tc.signal, order[1:], tc.layout.reclaim(tc.signal), tc.order, tc.before)
		}
	}
}

// TestRequestsOfDisk: whoever is within the request goes last, above it counts by how much; of inodes what was requested of bytes is
// taken off, as upstream does.
func TestRequestsOfDisk(t *testing.T) {
	within, above, little := podOf("within", -10, "", 0), podOf("above", 0, "", 0), podOf("little", 0, "", 0)
	within.Containers["c"], above.Containers["c"], little.Containers["c"] = Use{Logs: Disk{90 * mi, 900}}, Use{Logs: Disk{60 * mi, 600}}, Use{Logs: Disk{20 * mi, 200}}
	for p, request := range map[*v1.Pod]string{within.Pod: "100Mi", above.Pod: "50Mi"} {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse(request)}
	}
	all := []Pod{within, above, little}
	for s, want := range map[Signal]string{NodeFs: "little", NodeFsInodes: "within"} { // nobody requested inodes, so priority decides
		if got := Choose(Shortage{Threshold{Signal: s, Quantity: 100}, Value{50, 1000}}, Layout{}, all).Pod.Name; got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
	within.Spec.Priority = above.Spec.Priority
	if got := Choose(Shortage{Threshold{Signal: NodeFsInodes, Quantity: 100}, Value{50, 1000}}, Layout{}, all).Pod.Name; got != "little" {
		t.Errorf("inodes: %s goes, want the one that requested no disk", got)
	}
}

func TestUsing(t *testing.T) {
	n := func(v uint64) *uint64 { return &v }
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
	p.Spec.Volumes = []v1.Volume{{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}},
		{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{}}}}
	stats := v1alpha1.PodStats{PodRef: v1alpha1.PodReference{UID: "u"}, Memory: &v1alpha1.MemoryStats{WorkingSetBytes: n(7)}, ProcessStats: &v1alpha1.ProcessStats{ProcessCount: n(3)},
		Containers: []v1alpha1.ContainerStats{{Name: "c", Memory: &v1alpha1.MemoryStats{WorkingSetBytes: n(6)},
			Rootfs: &v1alpha1.FsStats{UsedBytes: n(100), InodesUsed: n(10)}, Logs: &v1alpha1.FsStats{UsedBytes: n(50), InodesUsed: n(5)}}}}
	got := Using([]*v1.Pod{p, {ObjectMeta: metav1.ObjectMeta{UID: "new"}}}, []v1alpha1.PodStats{stats}, func(_ *v1.Pod, _ string) Disk { return Disk{20, 2} })
	u := got[0]
	if text := fmt.Sprint(u.Measured, u.Memory, u.Processes, u.Containers, u.Volumes); text != "true 7 3 map[c:{6 {100 10} {50 5}}] map[disk:{20 2}]" {
		t.Error(text)
	}
	if got[1].Measured {
		t.Error("a pod of which nothing is known counts as measured")
	}
}
