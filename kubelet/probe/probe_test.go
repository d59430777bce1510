package probe

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skiff-node/skiff/kubelet/pod"
)

func TestCounter(t *testing.T) {
	spec := &v1.Probe{SuccessThreshold: 2, FailureThreshold: 3}
	var c counter
	for i, step := range []struct {
		ok, reached bool
	}{{true, false}, {true, true}, {false, false}, {false, false}, {true, false}, {false, false}, {false, false}, {false, true}, {false, true}} {
		if _, reached := c.count(step.ok, spec); reached != step.reached {
			t.Errorf("step %d: reached %v", i, reached)
		}
	}
}

// script answers checks by kind of probe.
type script struct {
	mu      sync.Mutex
	answers map[string]bool
	checks  map[string]int
}

func (s *script) Check(_ context.Context, spec *v1.Probe, _ *Target) (bool, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := spec.Exec.Command[0]
	s.checks[name]++
	return s.answers[name], "said no", nil
}

func (s *script) answer(name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name] = ok
}

type silent struct{}

func (silent) Warning(*v1.Pod, string, string, string, ...any) {}

func probeOf(name string, failures int32) *v1.Probe {
	return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{name}}}, PeriodSeconds: 10, FailureThreshold: failures, SuccessThreshold: 1}
}

// late answers no until a moment, and counts the failures that were reported.
type late struct {
	from     time.Time
	reported int
}

func (l *late) Check(context.Context, *v1.Probe, *Target) (bool, string, error) {
	return !time.Now().Before(l.from), "connection refused", nil
}

func (l *late) Warning(*v1.Pod, string, string, string, ...any) { l.reported++ }

// TestReadyWhenItListens has a program that listens after 150 ms: it is ready a moment later, not a period later, and
// only the regular check has reported a failure. A check by exec is not hastened.
func TestReadyWhenItListens(t *testing.T) {
	for name, handler := range map[string]v1.ProbeHandler{
		"tcp":  {TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(80)}},
		"exec": {Exec: &v1.ExecAction{Command: []string{"x"}}},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &late{from: time.Now().Add(150 * time.Millisecond)}
			m := New(Config{Checker: l, Events: l, Changed: func(types.UID) {}, Log: slog.New(slog.DiscardHandler)})
			defer m.Close()
			p := &v1.Pod{}
			p.UID = "u"
			c := &v1.Container{Name: "a", ReadinessProbe: &v1.Probe{ProbeHandler: handler, PeriodSeconds: 10, FailureThreshold: 1, SuccessThreshold: 1}}
			m.Sync(p, []Target{{ID: "c1", Spec: c, Started: time.Now()}})
			time.Sleep(400 * time.Millisecond)
			if ready := m.Verdicts("u")["c1"].Readiness == pod.Success; ready != (name == "tcp") || l.reported != 1 {
				t.Errorf("%s: ready %v, %d failures reported", name, ready, l.reported)
			}
		})
	}
}

func TestProbesOfAContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: map[string]bool{}, checks: map[string]int{}}
		woken := 0
		m := New(Config{Checker: s, Events: silent{}, Changed: func(types.UID) { woken++ }, Log: slog.New(slog.DiscardHandler)})
		defer m.Close()
		p := &v1.Pod{}
		p.UID = "u"
		c := &v1.Container{Name: "a", StartupProbe: probeOf("startup", 30), ReadinessProbe: probeOf("readiness", 1), LivenessProbe: probeOf("liveness", 2)}
		target := Target{ID: "c1", Spec: c, Started: time.Now()}
		m.Sync(p, []Target{target})
		time.Sleep(25 * time.Second)
		if v := m.Verdicts("u")["c1"]; v != (pod.Probes{}) || s.checks["readiness"] != 0 || s.checks["startup"] != 3 {
			t.Fatalf("before it has started: %+v, checks %v", v, s.checks)
		}
		s.answer("startup", true)
		s.answer("readiness", true)
		s.answer("liveness", true)
		time.Sleep(10 * time.Second)
		if v := m.Verdicts("u")["c1"]; v != (pod.Probes{Startup: pod.Success, Readiness: pod.Success, Liveness: pod.Success}) {
			t.Fatalf("all well: %+v", v)
		}
		s.answer("readiness", false)
		s.answer("liveness", false)
		time.Sleep(10 * time.Second)
		if v := m.Verdicts("u")["c1"]; v.Readiness != pod.Failure || v.Liveness != pod.Success {
			t.Fatalf("after one failure: %+v", v)
		}
		time.Sleep(10 * time.Second)
		if v := m.Verdicts("u")["c1"]; v.Liveness != pod.Failure {
			t.Fatalf("after two failures: %+v", v)
		}
		checked := s.checks["liveness"]
		time.Sleep(time.Minute)
		if s.checks["liveness"] != checked || s.checks["startup"] != 4 {
			t.Errorf("probes that have ended go on: %v", s.checks)
		}
		if woken != 5 {
			t.Errorf("woken %d times", woken)
		}
		m.Sync(p, nil)
		if len(m.Verdicts("u")) != 0 {
			t.Error("verdicts of a container that is gone")
		}
	})
}

func TestAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: map[string]bool{}, checks: map[string]int{}}
		m := New(Config{Checker: s, Events: silent{}, Changed: func(types.UID) {}, Log: slog.New(slog.DiscardHandler)})
		defer m.Close()
		p := &v1.Pod{}
		was := pod.Probes{Startup: pod.Success, Readiness: pod.Success}
		c := &v1.Container{Name: "a", StartupProbe: probeOf("startup", 30), ReadinessProbe: probeOf("readiness", 3)}
		m.Sync(p, []Target{{ID: "c1", Spec: c, Started: time.Now().Add(-time.Hour), Adopted: was}})
		time.Sleep(15 * time.Second)
		if v := m.Verdicts("")["c1"]; v != was || s.checks["startup"] != 0 || s.checks["readiness"] == 0 {
			t.Errorf("%+v, checks %v", v, s.checks)
		}
	})
}

func TestDeletionEndsKillingProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: map[string]bool{"readiness": true, "liveness": true}, checks: map[string]int{}}
		m := New(Config{Checker: s, Events: silent{}, Changed: func(types.UID) {}, Log: slog.New(slog.DiscardHandler)})
		defer m.Close()
		p := &v1.Pod{}
		c := &v1.Container{Name: "a", ReadinessProbe: probeOf("readiness", 1), LivenessProbe: probeOf("liveness", 1)}
		targets := []Target{{ID: "c1", Spec: c, Started: time.Now()}}
		m.Sync(p, targets)
		time.Sleep(5 * time.Second)
		p = p.DeepCopy()
		p.DeletionTimestamp = &p.CreationTimestamp
		m.Sync(p, targets)
		s.answer("readiness", false)
		s.answer("liveness", false)
		time.Sleep(30 * time.Second)
		if v := m.Verdicts("")["c1"]; v.Readiness != pod.Failure || v.Liveness != pod.Success {
			t.Errorf("%+v", v)
		}
	})
}

func TestChecks(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("User-Agent") != agent || r.Host != "name.example" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	target := &Target{ID: "c", PodIP: "127.0.0.1", Spec: &v1.Container{Name: "a", Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}}}
	get := func(path string, p intstr.IntOrString) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: p,
			HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "name.example"}}}}}
	}
	exec := Checks{Exec: func(_ context.Context, _ string, command []string, _ time.Duration) ([]byte, int, error) {
		if command[0] == "broken" {
			return nil, 0, fmt.Errorf("no such container")
		}
		return []byte("out"), len(command) - 1, nil
	}}
	command := func(c ...string) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: c}}}
	}
	closed := httptest.NewServer(mux)
	_, closedPort, _ := net.SplitHostPort(closed.Listener.Addr().String())
	closed.Close()
	for _, tc := range []struct {
		name   string
		probe  *v1.Probe
		ok     bool
		output string
		failed bool
	}{
		{"http", get("/ok", intstr.FromInt(n)), true, "", false},
		{"http by port name", get("ok", intstr.FromString("web")), true, "", false},
		{"http status", get("/bad", intstr.FromInt(n)), false, "HTTP probe failed with statuscode: 503", false},
		{"redirect away", get("/away", intstr.FromInt(n)), true, "", false},
		{"unknown port", get("/ok", intstr.FromString("nope")), false, "", true},
		{"tcp", &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(n)}}}, true, "", false},
		{"tcp refused", &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.Parse(closedPort)}}}, false,
			"dial tcp 127.0.0.1:" + closedPort + ": connect: connection refused", false},
		{"exec", command("x"), true, "out", false},
		{"exec fails", command("x", "y"), false, "out", false},
		{"exec cannot be made", command("broken"), false, "", true},
	} {
		ok, output, err := exec.Check(context.Background(), tc.probe, target)
		if ok != tc.ok || output != tc.output || (err != nil) != tc.failed {
			t.Errorf("%s: %v %q %v", tc.name, ok, output, err)
		}
	}
}
