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
	got, err := Parse(Settings{Hard: map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "containerfs.available": "5%", "imagefs.available": "0%", "pid.available": "100%"},
		Soft: map[string]string{"memory.available": "1Gi"}, SoftGrace: map[string]string{"memory.available": "30s"},
		MinimumReclaim: map[string]string{"memory.available": "10Mi"}})
	want := "[{memory.available 104857600 0 0s 10485760} {nodefs.available 0 10 0s 0} {memory.available 1073741824 0 30s 10485760}]"
	if err != nil || fmt.Sprint(got) != want {
		t.Errorf("%v, %v", got, err)
	}
	for _, s := range []Settings{
		{Hard: map[string]string{"x": "1"}}, {Hard: map[string]string{"memory.available": "110%"}}, {Hard: map[string]string{"memory.available": "-1"}}, {Hard: map[string]string{"memory.available": "0"}},
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
		{10, 150, 50, "MemoryPressure", ""}, // soft: its time has not come, but no more pods are taken
		{40, 150, 50, "MemoryPressure", ""},
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
	return Pod{Pod: p, Measured: true, Memory: memory * mi, Containers: map[string]Use{"c": {Memory: memory * mi}}, Volumes: map[string]Disk{}}
}

func TestChoose(t *testing.T) {
	short := Shortage{Threshold{Signal: Memory, Quantity: 100 * mi}, Value{50 * mi, 1000 * mi}}
	static := podOf("static", 0, "", 900)
	static.Annotations = map[string]string{pod.AnnotationSource: "file"}
	done := podOf("done", 0, "", 900)
	unknown := Pod{Pod: podOf("unknown", 1000, "10Mi", 0).Pod}
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
		{"who is not known goes first", []Pod{podOf("above", 0, "10Mi", 500), unknown}, "unknown"},
	} {
		got := ""
		if v := Choose(short, Layout{}, tc.pods); v != nil {
			got = v.Pod.Name
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	v := Choose(short, Layout{}, []Pod{podOf("a", 0, "10Mi", 20)})
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 20Mi, request is 10Mi, has larger consumption of memory. "
	if v.Message != want {
		t.Errorf("message %q", v.Message)
	}
}

func TestOverLimit(t *testing.T) {
	p := podOf("p", 0, "", 0)
	limit := resource.MustParse("1Mi")
	check := func(what string, l Layout, signal Signal, message string) {
		t.Helper()
		got := OverLimit(p, l)
		if got == nil {
			got = &Victim{}
		}
		if got.Signal != signal || got.Message != message {
			t.Errorf("%s: %s %q, want %s %q", what, got.Signal, got.Message, signal, message)
		}
	}
	p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	p.Volumes = map[string]Disk{"v": {Bytes: mi}}
	check("a volume at its limit", Layout{}, "", "")
	p.Volumes["v"] = Disk{Bytes: mi + 1}
	check("a volume above it", Layout{}, VolumeLimit, `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `)
	p.Spec.Volumes, p.Volumes = nil, nil
	always := v1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []v1.Container{{Name: "side", RestartPolicy: &always}}
	for _, c := range []*v1.Container{&p.Spec.Containers[0], &p.Spec.InitContainers[0]} {
		c.Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: limit}
	}
	p.Containers["c"], p.Containers["side"] = Use{Root: Disk{Bytes: mi}}, Use{Root: Disk{Bytes: mi}}
	check("all at their limits", Layout{}, "", "")
	p.Containers["c"], p.Containers["side"] = Use{}, Use{Root: Disk{Bytes: mi}, Logs: Disk{Bytes: 1}}
	check("a sidecar above it", Layout{}, ContainerLimit, `Container side exceeded its local ephemeral storage limit "1Mi". `)
	check("its layer is elsewhere", Layout{Images: true}, "", "")
	p.Containers["c"] = Use{Root: Disk{Bytes: mi}}
	check("the pod above all of them", Layout{Images: true}, PodLimit, "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ")
}

// TestLocalLimits: pods are held to limits of their own for disk only where that is asked for, also when the node is short of something.
func TestLocalLimits(t *testing.T) {
	over := podOf("over", 0, "", 1)
	over.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("1Ki")}
	over.Containers["c"] = Use{Logs: Disk{Bytes: 4096}}
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
		{"held to limits, which may be enough", func() bool { return true }, true, "[over]"},
	} {
		var evicted []string
		available := int64(50)
		if tc.short {
			available = 1
		}
		l, err := New(Config{Thresholds: []Threshold{{Signal: Memory, Percent: 15}}, Limited: tc.limited,
			Measure: func(context.Context) map[Signal]Value { return map[Signal]Value{Memory: {available, 100}} },
			Pods:    func(context.Context) ([]Pod, error) { return []Pod{over, other}, nil },
			Evict:   func(v Victim) { evicted = append(evicted, v.Pod.Name) }})
		if err != nil {
			t.Fatal(err)
		}
		l.Look(t.Context(), time.Unix(1, 0))
		if fmt.Sprint(evicted) != tc.want {
			t.Errorf("%s: evicted %v, want %s", tc.name, evicted, tc.want)
		}
	}
}

// TestLoopReclaimsBeforePods: what lies on the file system that is full is removed first, and if that is enough nobody has to go.
func TestLoopReclaimsBeforePods(t *testing.T) {
	free, freed, changed := int64(5), int64(0), 0
	layout := Layout{}
	var did []string
	reclaim := func(what string) func(context.Context) error {
		return func(context.Context) error { free += freed; did = append(did, what); return nil }
	}
	l, err := New(Config{Thresholds: []Threshold{{Signal: ImageFs, Percent: 15}, {Signal: NodeFs, Percent: 50}},
		Measure: func(context.Context) map[Signal]Value {
			return map[Signal]Value{ImageFs: {free, 100}, NodeFs: {60, 100}}
		},
		Pods:           func(context.Context) ([]Pod, error) { return []Pod{podOf("a", 0, "", 1)}, nil },
		Layout:         func(context.Context) (Layout, error) { return layout, nil },
		FreeContainers: reclaim("containers"), FreeImages: reclaim("images"),
		Evict:   func(v Victim) { did = append(did, fmt.Sprint(v.Pod.Name, v.Hard, v.Signal)) },
		Changed: func() { changed++ }})
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		layout      Layout
		free, freed int64
		want        string
		changed     int
	}{
		{Layout{}, 5, 10, "containers images", 1},
		{Layout{}, 5, 0, "containers images atrueimagefs.available", 1},
		{Layout{Images: true, Split: true}, 5, 0, "images atrueimagefs.available", 1},
		{Layout{}, 50, 0, "", 2},
	} {
		layout, free, freed, did = step.layout, step.free, step.freed, nil
		l.Look(t.Context(), time.Unix(int64(1000*(i+1)), 0))
		if strings.Join(did, " ") != step.want || changed != step.changed || l.Under(DiskPressure) != (step.want != "") {
			t.Errorf("step %d: %q, told %d times, pressure %v", i, did, changed, l.Under(DiskPressure))
		}
	}
}
