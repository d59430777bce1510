package evict

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

const mi = 1 << 20

func TestParse(t *testing.T) {
	got, err := Parse(Settings{Hard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "containerfs.available": "5%"},
		Soft: map[string]string{"memory.available": "1Gi"}, SoftGrace: map[string]string{"memory.available": "30s"},
		MinimumReclaim: map[string]string{"memory.available": "10Mi"}})
	want := "[{memory.available 104857600 0 0s 10485760} {nodefs.available 0 10 0s 0} {memory.available 1073741824 0 30s 10485760}]"
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []Settings{
		{Hard: map[string]string{"x": "1"}}, {Hard: map[string]string{"memory.available": "110%"}}, {Hard: map[string]string{"memory.available": "-1"}},
		{Soft: map[string]string{"memory.available": "1Gi"}},
	} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%v was accepted", s)
		}
	}
	if _, err := Parse(Settings{Hard: Defaults()}); err != nil {
		t.Error(err)
	}
}

// TestAssess plays a node that runs short of memory and recovers.
func TestAssess(t *testing.T) {
	thresholds := []Threshold{
		{Signal: Memory, Quantity: 100 * mi, Reclaim: 50 * mi},
		{Signal: Memory, Quantity: 200 * mi, Grace: time.Minute},
		{Signal: NodeFs, Percent: 10},
	}
	t0 := time.Unix(1000, 0)
	var state State
	for _, step := range []struct {
		after         int // seconds
		memory, disk  int64
		pressure, act string
	}{
		{0, 300, 50, "", ""},
		{10, 150, 50, "", ""}, // soft: its time has not come
		{40, 150, 50, "", ""},
		{70, 150, 50, "MemoryPressure", "60s"},               // a minute later it has
		{80, 90, 5, "DiskPressure MemoryPressure", "hard"},   // memory goes before disk
		{90, 120, 50, "DiskPressure MemoryPressure", "hard"}, // above the threshold, but not by what is to be reclaimed
		{100, 250, 50, "DiskPressure MemoryPressure", ""},    // over; the conditions stay for some time
		{381, 250, 50, "MemoryPressure", ""},
		{400, 250, 50, "", ""},
	} {
		now := t0.Add(time.Duration(step.after) * time.Second)
		v := Assess(state, thresholds, map[Signal]Value{Memory: {step.memory * mi, 1000 * mi}, NodeFs: {step.disk, 100}}, 5*time.Minute, now)
		state = v.State
		var got []string
		for c := range v.Pressure {
			got = append(got, string(c))
		}
		slices.Sort(got)
		act := ""
		if v.Act != nil {
			if act = "hard"; v.Act.Threshold.Grace > 0 {
				act = fmt.Sprintf("%.0fs", v.Act.Threshold.Grace.Seconds())
			}
			if v.Act.Threshold.Signal != Memory {
				act += " " + string(v.Act.Threshold.Signal)
			}
		}
		if strings.Join(got, " ") != step.pressure || act != step.act {
			t.Errorf("after %d s: pressure %q, act %q; want %q, %q", step.after, got, act, step.pressure, step.act)
		}
	}
}

func podOf(name string, priority int32, request string, memory int64) Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Name: "c"}}}}
	if request != "" {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(request)}
	}
	return Pod{Pod: p, Memory: memory * mi, Containers: map[string]Use{"c": {Memory: memory * mi}}}
}

func TestChoose(t *testing.T) {
	short := Shortage{Threshold{Signal: Memory, Quantity: 100 * mi}, Value{50 * mi, 1000 * mi}}
	static := podOf("static", 0, "", 900)
	static.Annotations = map[string]string{pod.AnnotationSource: "file"}
	done := podOf("done", 0, "", 900)
	done.Status.Phase = v1.PodFailed
	for _, tc := range []struct {
		name string
		pods []Pod
		want string
	}{
		{"who uses more than requested goes first", []Pod{podOf("within", 0, "500Mi", 400), podOf("above", 1000, "10Mi", 20)}, "above"},
		{"then lower priority", []Pod{podOf("high", 10, "10Mi", 500), podOf("low", 5, "10Mi", 20)}, "low"},
		{"then furthest above", []Pod{podOf("a", 0, "10Mi", 20), podOf("b", 0, "100Mi", 200)}, "b"},
		{"critical ones stay", []Pod{static, done, podOf("system", pod.CriticalFrom, "", 900), podOf("small", 0, "", 1)}, "small"},
		{"nobody", []Pod{static}, ""},
	} {
		got := ""
		if v := Choose(short, tc.pods); v != nil {
			got = v.Pod.Name
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	v := Choose(short, []Pod{podOf("a", 0, "10Mi", 20)})
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 20Mi, request is 10Mi, has larger consumption of memory. "
	if v.Message != want {
		t.Errorf("message %q", v.Message)
	}
}

func TestOverLimit(t *testing.T) {
	p := podOf("p", 0, "", 0)
	limit := resource.MustParse("1Mi")
	p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	p.Volumes = map[string]int64{"v": mi}
	if got := OverLimit(p); got != "" {
		t.Errorf("at the limit: %q", got)
	}
	p.Volumes["v"]++
	if got := OverLimit(p); got != `Usage of EmptyDir volume "v" exceeds the limit "1Mi". ` {
		t.Errorf("%q", got)
	}
	p.Spec.Volumes = nil
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: limit}
	p.Containers["c"] = Use{Disk: mi + 1}
	if got := OverLimit(p); got != `Container c exceeded its local ephemeral storage limit "1Mi". ` {
		t.Errorf("%q", got)
	}
	p.Disk = mi + 1
	if got := OverLimit(p); !strings.HasPrefix(got, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi") {
		t.Errorf("%q", got)
	}
}

// TestLocalLimits: pods are held to limits of their own for disk only where that is asked for, also when the node is short of something.
func TestLocalLimits(t *testing.T) {
	over := podOf("over", 0, "", 1)
	over.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("1Ki")}
	over.Disk = 4096
	other := podOf("other", -1, "", 1)
	for _, tc := range []struct {
		name    string
		limited func() bool
		short   bool
		want    string
	}{
		{"held to limits", func() bool { return true }, false, "[over]"},
		{"no pod has one", func() bool { return false }, false, "[]"},
		{"not held", nil, false, "[]"},
		{"not held, and the node is short of memory", nil, true, "[other]"},
	} {
		var evicted []string
		available := int64(50)
		if tc.short {
			available = 1
		}
		l, err := New(Config{Thresholds: []Threshold{{Signal: Memory, Percent: 15}}, Limited: tc.limited,
			Measure: func(context.Context) map[Signal]Value { return map[Signal]Value{Memory: {available, 100}} },
			Pods:    func(context.Context) ([]Pod, error) { return []Pod{over, other}, nil },
			Evict:   func(p *v1.Pod, _ string, _ bool) { evicted = append(evicted, p.Name) }})
		if err != nil {
			t.Fatal(err)
		}
		l.Look(t.Context(), time.Unix(1, 0))
		if fmt.Sprint(evicted) != tc.want {
			t.Errorf("%s: evicted %v, want %s", tc.name, evicted, tc.want)
		}
	}
}

func TestLoopFreesImagesBeforePods(t *testing.T) {
	free, freed, changed := int64(5), uint64(0), 0
	var evicted []string
	l, err := New(Config{Thresholds: []Threshold{{Signal: ImageFs, Percent: 15}},
		Measure:    func(context.Context) map[Signal]Value { return map[Signal]Value{ImageFs: {free, 100}} },
		Pods:       func(context.Context) ([]Pod, error) { return []Pod{podOf("a", 0, "", 1)}, nil },
		FreeImages: func(context.Context) (uint64, error) { free += int64(freed); return freed, nil },
		Evict:      func(p *v1.Pod, _ string, hard bool) { evicted = append(evicted, fmt.Sprint(p.Name, hard)) },
		Changed:    func() { changed++ }})
	if err != nil {
		t.Fatal(err)
	}
	freed = 20
	l.Look(t.Context(), time.Unix(1, 0))
	if len(evicted) != 0 || !l.Under(DiskPressure) || changed != 1 {
		t.Errorf("evicted %q, under pressure %v, told %d times", evicted, l.Under(DiskPressure), changed)
	}
	free, freed = 5, 0
	l.Look(t.Context(), time.Unix(2, 0))
	if !slices.Equal(evicted, []string{"atrue"}) || changed != 1 {
		t.Errorf("evicted %q, told %d times", evicted, changed)
	}
	free = 50
	l.Look(t.Context(), time.Unix(1000, 0))
	if l.Under(DiskPressure) || changed != 2 {
		t.Errorf("pressure did not end")
	}
}
