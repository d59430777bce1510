package resize

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// TestTurn has upstream's order of retries (sortPendingResizes), one reason over the other.
func TestTurn(t *testing.T) {
	waiting := func(name string, priority int32, guaranteed bool, from, to string, since int64) Waiting {
		p := testPod(name, to, "1Gi")
		p.Name = name
		if priority != 0 { // none counts as zero
			p.Spec.Priority = &priority
		}
		had := p.DeepCopy()
		had.Spec.Containers[0].Resources.Requests = need(from, "1Gi").Requests
		if guaranteed {
			p.Spec.Containers[0].Resources.Limits = p.Spec.Containers[0].Resources.Requests
		}
		w := Waiting{Pod: p, Granted: Of(had)}
		if since > 0 {
			w.Since = time.Unix(since, 0)
		}
		return w
	}
	all := []Waiting{
		waiting("unknown", 0, false, "1", "2", 0),
		waiting("late", 0, false, "1", "2", 20),
		waiting("early", 0, false, "1", "2", 10),
		waiting("guaranteed", 0, true, "1", "2", 30),
		waiting("low", -1, true, "1", "2", 1),
		waiting("high", 100, false, "1", "2", 40),
		waiting("less", -5, false, "2", "1", 50),
	}
	want := "less high guaranteed early late unknown low"
	for range all {
		all = append(all[1:], all[0]) // whatever the order they come in
		list := slices.Clone(all)
		slices.SortFunc(list, Turn)
		var names []string
		for _, w := range list {
			names = append(names, w.Pod.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	// The age of the pod does not count.
	old, young := waiting("old", 0, false, "1", "2", 20), waiting("young", 0, false, "1", "2", 10)
	old.Pod.CreationTimestamp.Time, young.Pod.CreationTimestamp.Time = time.Unix(1, 0), time.Unix(5, 0)
	if Turn(young, old) >= 0 {
		t.Error("who has waited longest does not go first")
	}
	if pod.QOS(all[0].Pod) == v1.PodQOSBestEffort {
		t.Error("the table has no requests")
	}
}
