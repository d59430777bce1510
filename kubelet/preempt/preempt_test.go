package preempt

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/admit"
)

// asks makes a pod: "name cpu=1/2 memory=1Gi priority=7", requests and limits.
func asks(text string) *v1.Pod {
	f := strings.Fields(text)
	p := &v1.Pod{}
	p.Name, p.UID = f[0], types.UID(f[0])
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	for _, item := range f[1:] {
		name, value, _ := strings.Cut(item, "=")
		if name == "priority" {
			var n int32
			_, _ = fmt.Sscan(value, &n)
			p.Spec.Priority = &n
			continue
		}
		request, limit, limited := strings.Cut(value, "/")
		r.Requests[v1.ResourceName(name)] = resource.MustParse(request)
		if limited {
			r.Limits[v1.ResourceName(name)] = resource.MustParse(limit)
		}
	}
	p.Spec.Containers = []v1.Container{{Name: "c", Resources: r}}
	return p
}

func all(texts ...string) (list []*v1.Pod) {
	for _, t := range texts {
		list = append(list, asks(t))
	}
	return list
}

func node(cpu, memory, pods string) admit.Node {
	return admit.Node{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory), v1.ResourcePods: resource.MustParse(pods)}}
}

func TestChoose(t *testing.T) {
	const critical = "new cpu=1 memory=1Gi priority=2000000000"
	for name, tc := range map[string]struct {
		pod    string
		active []*v1.Pod
		node   admit.Node
		want   string
	}{
		"the one that comes closest":       {critical, all("a cpu=2", "b cpu=1", "c cpu=500m"), node("3500m", "8Gi", "10"), "b"},
		"two small ones":                   {critical, all("a cpu=600m", "b cpu=500m", "c cpu=100m"), node("1200m", "8Gi", "10"), "a b"},
		"Burstable before Guaranteed":      {critical, all("g cpu=1/1 memory=1Gi/1Gi", "b cpu=1 memory=1Gi"), node("2", "2Gi", "10"), "b"},
		"a slot of a pod without requests": {critical, all("e", "b cpu=1"), node("4", "8Gi", "2"), "e"},
		"not the critical ones":            {critical, all("k cpu=1 priority=2000000000", "b cpu=1"), node("2", "8Gi", "10"), "b"},
		"none helps":                       {critical, all("k cpu=1 priority=2000000000"), node("1", "8Gi", "10"), "no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]"},
	} {
		p := asks(tc.pod)
		chosen, err := Choose(p, tc.active, admit.Lacking(p, tc.active, tc.node))
		var names []string
		for _, c := range chosen {
			names = append(names, c.Name)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestCheck: an ordinary pod is refused, a critical one gets room once those that make it have ended.
func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		active := all("b cpu=1", "other cpu=100m")
		ended := make(chan struct{})
		var told []string
		a := Admission{Config{
			Ended: func(types.UID) <-chan struct{} { return ended },
			Evict: func(uid types.UID, end pod.End) bool {
				time.AfterFunc(5*time.Second, func() { close(ended) })
				told = append(told, string(uid)+" "+end.Reason+" "+end.Condition.Reason)
				return true
			},
			Event: func(p *v1.Pod, _, reason, format string, _ ...any) {
				told = append(told, p.Name+": "+reason+" "+format)
			},
			Preempted: func(signal string) { told = append(told, signal) },
		}}
		n := node("1200m", "8Gi", "10")
		if r := a.Check(asks("plain cpu=1"), false, active, n); r == nil || r.Reason != "OutOfcpu" || len(told) != 0 {
			t.Errorf("ordinary: %+v, %v", r, told)
		}
		if r := a.Check(asks("huge cpu=9 priority=2000000000"), false, active, n); r == nil || r.Reason != "UnexpectedAdmissionError" {
			t.Errorf("more than there is: %+v", r)
		}
		elsewhere := asks("new cpu=1 priority=2000000000")
		elsewhere.Spec.OS = &v1.PodOS{Name: v1.Windows}
		if r := a.Check(elsewhere, false, active, n); r == nil || r.Reason != "PodOSNotSupported" || len(told) != 0 {
			t.Errorf("refused for another reason too: %+v, %v", r, told)
		}
		picky, named := asks("new cpu=1 priority=2000000000"), n
		picky.Spec.NodeSelector, named.Object = map[string]string{"disk": "fast"}, &v1.Node{}
		if r := a.Check(picky, false, active, named); r == nil || r.Reason != "NodeAffinity" || len(told) != 0 {
			t.Errorf("refused for another reason as well, which room does not help: %+v, %v", r, told)
		}
		began := time.Now()
		if r := a.Check(asks("new cpu=1 priority=2000000000"), false, active, n); r != nil {
			t.Fatalf("%+v", r)
		}
		want := []string{"b: Preempting Preempted in order to admit critical pod", "b Preempting TerminationByKubelet", "cpu"}
		if took := time.Since(began); !slices.Equal(told, want) || took != 5*time.Second {
			t.Errorf("%q after %v", told, took)
		}
	})
}

// TestCheckGivesUp: pods that do not end are waited for no longer than one and a half of their grace periods, all together; a kubelet
// that ends does not wait for pods that nobody ends any more.
func TestCheckGivesUp(t *testing.T) {
	for stops, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Hour: 45 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			active, stopped := all("b cpu=1", "c cpu=1"), make(chan struct{})
			a := Admission{Config{
				Ended:     func(types.UID) <-chan struct{} { return nil },
				Evict:     func(types.UID, pod.End) bool { return true },
				Event:     func(*v1.Pod, string, string, string, ...any) {},
				Preempted: func(string) {},
				Stopped:   stopped,
			}}
			defer time.AfterFunc(stops, func() { close(stopped) }).Stop()
			began := time.Now()
			if r := a.Check(asks("new cpu=2 priority=2000000000"), false, active, node("2200m", "8Gi", "10")); r != nil {
				t.Errorf("refused for good: %+v", r)
			}
			if took := time.Since(began); took != want {
				t.Errorf("it took %v, want %v", took, want)
			}
		})
	}
}
