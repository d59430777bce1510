package pod_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/historytest"
	"github.com/skiff-node/skiff/kubelet/pod/report"
)

var update = flag.Bool("update", false, "write the answers into the scripts")

// TestHistories replays what may happen to a pod. A script is a list of commands; the lines that begin with ">" are the
// answer to the command above them. The most important ones also run for real, on a node (test/e2e/histories): a plan is
// then what the kubelet has to do, and a status what the API has to be told, before the script goes on. The commands:
//
//	sandbox ready|dead [ip=IP] [host]   a new sandbox (ready), or the newest one has died
//	run|create C [image=NAME]           the runtime has a new instance of container C, and calls its image so
//	start C                             the instance created runs now
//	exit C CODE [reason=R] [message=M]  the newest instance of C has ended
//	lost C                              the newest instance of C is in state unknown
//	reap                                the runtime has removed what the last plan said
//	cap DURATION                        the configured cap of the back-off
//	gone C                              the runtime knows no instance of C any more
//	probe C startup|readiness|liveness ok|fail
//	fault C REASON RETRY                C could not be started, retry after RETRY; "pod" stands for the whole pod
//	clear C                             and then it could
//	hook C                              the preStop hook of C has ended
//	poststart C begun|ok|failed         the postStart hook of C, which runs
//	busy | idle                         a start is under way, or none
//	clock +DURATION
//	delete GRACE                        the API has a deletion with that grace period, in seconds
//	evict GRACE REASON                  the kubelet ends the pod
//	reject REASON                       the node refuses the pod
//	granted C RES=REQUEST[/LIMIT] ...   the node has granted C other resources; RES is cpu or memory; C may be pod, the whole
//	actual C RES=REQUEST[/LIMIT] ...    the running C has these resources
//	resize pending|progress [REASON]    that is where the resize of the pod stands
//	restart                             the kubelet has been restarted: what it had in memory is gone
//	set FIELD VALUE                     the API changes: image.C, cpu.C, phase, condition.TYPE, ephemeral (a new one of that name)
//	plan                                decide; the answer is what to do. Stop calls are noted as begun.
//	status                              the answer is what the API is told
//	condition TYPE                      one condition of the last status, in full
//	container C                         one container of the last status, in full
func TestHistories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { replay(t, file) })
	}
}

func replay(t *testing.T, file string) {
	script, err := historytest.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, script.Pod)
	for i := range script.Lines {
		if l := &script.Lines[i]; len(l.Command) > 0 {
			l.Answer = w.do(l.Command)
		}
	}
	got := script.Format()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("want:\n%s\ngot:\n%s", want, got)
	}
}

// world is the runtime, the API and the memory of the worker, in a script.
type world struct {
	t     *testing.T
	d     pod.Desired
	o     pod.Observed
	acts  pod.Actions
	now   time.Time
	last  *v1.PodStatus
	count int
	// pending and progress of a resize.
	pending, progress *report.Resize
}

func newWorld(t *testing.T, p *v1.Pod) *world {
	w := &world{t: t, now: time.Unix(1000, 0)}
	w.d.Pod = p
	w.d.Static = p.Annotations["kubernetes.io/config.source"] == "file"
	w.o = pod.Observed{Probes: map[string]pod.Probes{}, Kills: map[string]pod.Kill{}, Crashes: map[string]pod.Crash{}, Faults: map[string]pod.Fault{}}
	return w
}

func (w *world) do(f []string) []string {
	arg := func(i int) string {
		if i < len(f) {
			return f[i]
		}
		return ""
	}
	switch f[0] {
	case "sandbox":
		w.sandbox(f[1:])
	case "run", "create":
		w.instance(f[1], f[0] == "run")
		if image, ok := strings.CutPrefix(arg(2), "image="); ok {
			w.newest(f[1]).Image = image
		}
	case "start":
		c := w.newest(f[1])
		c.State, c.StartedAt = pod.Running, w.now
	case "exit":
		w.exit(f[1], arg(2), f[3:])
	case "lost":
		w.newest(f[1]).State = pod.Unknown
	case "reap":
		w.o.Containers = slices.DeleteFunc(w.o.Containers, func(c pod.Container) bool { return slices.Contains(w.acts.Remove, c.ID) })
	case "cap":
		w.o.MaxBackoff = duration(w.t, f[1])
	case "gone":
		w.gone(f[1])
	case "probe":
		w.probe(f[1], f[2], f[3])
	case "fault":
		w.o.Faults[name(f[1])] = pod.Fault{Reason: f[2], Message: "it failed", At: w.now, Retry: w.now.Add(duration(w.t, f[3]))}
	case "clear":
		delete(w.o.Faults, name(f[1]))
	case "hook":
		c := w.newest(f[1])
		k := w.o.Kills[c.ID]
		k.Hook = pod.Over
		w.o.Kills[c.ID] = k
	case "poststart":
		c := w.newest(f[1])
		w.o.Hooking = nil
		if f[2] == "begun" {
			w.o.Hooking = map[string]bool{f[1]: true}
		}
		if f[2] != "failed" {
			return nil
		}
		w.o.Faults[f[1]] = pod.Fault{Reason: "PostStartHookError", Message: "it failed", At: w.now, Retry: w.now.Add(time.Second)}
		w.o.Kills[c.ID] = pod.Kill{Cause: pod.CausePostStart, Message: "FailedPostStartHook",
			Deadline: w.now.Add(pod.Grace(w.d.Pod, f[1], pod.CausePostStart))}
	case "condition":
		return []string{historytest.Condition(w.last, f[1], time.Unix(1000, 0))}
	case "container":
		return []string{historytest.Container(w.last, f[1])}
	case "busy", "idle":
		w.o.Busy = f[0] == "busy"
	case "clock":
		w.now = w.now.Add(duration(w.t, strings.TrimPrefix(f[1], "+")))
	case "delete":
		grace, _ := strconv.ParseInt(f[1], 10, 64)
		w.delete(grace)
	case "evict":
		grace, _ := strconv.Atoi(f[1])
		w.d.End = &pod.End{Deadline: w.now.Add(time.Duration(grace) * time.Second), Phase: v1.PodFailed, Reason: f[2], Message: "because",
			Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: "TerminationByKubelet"}}
	case "reject":
		w.d.End = &pod.End{Deadline: w.now, Phase: v1.PodFailed, Reason: f[1], Message: "Pod was rejected: no", Rejected: true}
	case "restart":
		if w.last != nil {
			w.d.Pod = w.d.Pod.DeepCopy()
			w.d.Pod.Status = *w.last
		}
		w.last, w.d.End, w.o.Busy, w.o.Hooking = nil, nil, false, nil
		w.o.Kills, w.o.Crashes, w.o.Faults = map[string]pod.Kill{}, map[string]pod.Crash{}, map[string]pod.Fault{}
	case "granted":
		w.d.Pod = w.d.Pod.DeepCopy()
		if r := historytest.Resources(f[2:]); f[1] == wholePod {
			w.d.Pod.Spec.Resources = &r
		} else {
			pod.Find(w.d.Pod, f[1]).Resources = r
		}
	case "actual":
		if w.o.Actual == nil {
			w.o.Actual = map[string]v1.ResourceRequirements{}
		}
		w.o.Actual[strings.TrimSuffix(f[1], wholePod)] = historytest.Resources(f[2:])
	case "resize":
		r := &report.Resize{Reason: arg(2), Generation: w.d.Pod.Generation}
		w.pending, w.progress = nil, nil
		if f[1] == "pending" {
			w.pending = r
		} else if f[1] == "progress" {
			w.progress = r
		}
	case "set":
		w.set(f[1], f[2])
	case "plan":
		return w.plan()
	case "status":
		return w.status()
	default:
		w.t.Fatalf("unknown command %q", f[0])
	}
	return nil
}

// wholePod stands for the pod as a whole where a container could be named.
const wholePod = "pod"

// delete is what the API server makes of a deletion: a later one with less grace counts from the first one, and if that is
// over it has one second.
func (w *world) delete(grace int64) {
	p := w.d.Pod.DeepCopy()
	at := metav1.NewTime(w.now.Add(time.Duration(grace) * time.Second))
	if old := p.DeletionGracePeriodSeconds; old != nil && grace < *old {
		at = metav1.NewTime(p.DeletionTimestamp.Add(time.Duration(grace-*old) * time.Second))
		if at.Time.Before(w.now) {
			at, grace = metav1.NewTime(w.now), 1
		}
	}
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, &grace
	w.d.Pod = p
}

func duration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func name(s string) string {
	if s == "pod" {
		return ""
	}
	return s
}

func (w *world) sandbox(f []string) {
	if f[0] == "dead" {
		w.o.Sandboxes[0].Ready = false
		return
	}
	s := pod.Sandbox{ID: fmt.Sprintf("s%d", len(w.o.Sandboxes)), Ready: true, Attempt: uint32(len(w.o.Sandboxes)), CreatedAt: w.now, IPs: []string{"10.0.0.1"}}
	for _, a := range f[1:] {
		if ip, ok := strings.CutPrefix(a, "ip="); ok {
			s.IPs = []string{ip}
			if ip == "none" {
				s.IPs = nil
			}
		}
		if a == "host" {
			s.HostNetwork, s.IPs = true, nil
		}
	}
	w.o.Sandboxes = append([]pod.Sandbox{s}, w.o.Sandboxes...)
}

func (w *world) instance(name string, running bool) {
	c := pod.Container{ID: fmt.Sprintf("%s-%d", name, w.count), Name: name, Image: "img", ImageID: "sha256:img", CreatedAt: w.now,
		SandboxID: w.o.Sandboxes[0].ID, Hash: pod.Hash(pod.Find(w.d.Pod, name))}
	w.count++
	for _, old := range w.o.Containers {
		if old.Name == name {
			c.Restarts = old.Restarts + 1
			break
		}
	}
	if running {
		c.State, c.StartedAt = pod.Running, w.now
	}
	w.o.Containers = append([]pod.Container{c}, w.o.Containers...)
	delete(w.o.Faults, name)
	if w.acts.Start != nil {
		for _, st := range w.acts.Start.Containers {
			if st.Name == name && st.Crash.Delay > 0 {
				w.o.Crashes[name] = st.Crash
			}
		}
	}
}

func (w *world) newest(name string) *pod.Container {
	for i := range w.o.Containers {
		if w.o.Containers[i].Name == name {
			return &w.o.Containers[i]
		}
	}
	w.t.Fatalf("no container %q", name)
	return nil
}

func (w *world) exit(name, code string, options []string) {
	c := w.newest(name)
	n, err := strconv.Atoi(code)
	if err != nil {
		w.t.Fatal(err)
	}
	c.State, c.ExitCode, c.FinishedAt, c.Reason = pod.Exited, int32(n), w.now, "Completed"
	if n != 0 {
		c.Reason = "Error"
	}
	for _, o := range options {
		if r, ok := strings.CutPrefix(o, "reason="); ok {
			c.Reason = r
		}
		if m, ok := strings.CutPrefix(o, "message="); ok {
			c.Message = m
		}
	}
}

func (w *world) gone(name string) {
	var left []pod.Container
	for _, c := range w.o.Containers {
		if c.Name != name {
			left = append(left, c)
		}
	}
	w.o.Containers = left
}

func (w *world) probe(name, kind, result string) {
	c := w.newest(name)
	v := pod.Success
	if result == "fail" {
		v = pod.Failure
	}
	p := w.o.Probes[c.ID]
	switch kind {
	case "startup":
		p.Startup = v
	case "readiness":
		p.Readiness = v
	case "liveness":
		p.Liveness = v
	}
	w.o.Probes[c.ID] = p
}

func (w *world) set(field, value string) {
	p := w.d.Pod.DeepCopy()
	if what, _, _ := strings.Cut(field, "."); what != "condition" && what != "phase" { // the status is not the spec
		p.Generation++
	}
	if c, ok := strings.CutPrefix(field, "image."); ok {
		pod.Find(p, c).Image = value
	}
	if c, ok := strings.CutPrefix(field, "cpu."); ok {
		pod.Find(p, c).Resources = v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(value)}}
	}
	if t, ok := strings.CutPrefix(field, "condition."); ok {
		p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: v1.PodConditionType(t), Status: v1.ConditionStatus(value),
			LastTransitionTime: metav1.NewTime(w.now)})
	}
	if field == "ephemeral" {
		e := v1.EphemeralContainer{}
		e.Name, e.Image = value, "img"
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, e)
	}
	if field == "phase" {
		p.Status.Phase = v1.PodPhase(value)
	}
	w.d.Pod = p
}

// plan decides as a worker does, twice if the pod turns out to have to end.
func (w *world) plan() []string {
	w.acts = pod.Plan(w.d, w.o, w.now)
	st := report.Status(w.d, w.o, w.acts, w.facts())
	if end := pod.Ends(w.d, &st, w.acts.Finished, w.now); end != nil && (w.d.End == nil || *end != *w.d.End) {
		w.d.End = end
		w.acts = pod.Plan(w.d, w.o, w.now)
	}
	for _, k := range w.acts.Kills {
		w.o.Kills[k.ID] = k.Kill
	}
	return w.describe()
}

func (w *world) facts() report.Facts {
	return report.Facts{Now: w.now, HostIPs: []string{"192.168.0.1"}, Runtime: "test", Last: w.last,
		Pending: w.pending, Progress: w.progress}
}

func (w *world) describe() []string {
	a := &w.acts
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if w.d.End != nil {
		say("ends by %+v", w.d.End.Deadline.Sub(w.now))
	}
	if a.Cancel {
		say("cancel start")
	}
	for _, k := range a.Kills {
		what := ""
		if k.Announce {
			what += fmt.Sprintf(" announce %q", k.Kill.Message)
		}
		if k.RunHook {
			what += " hook"
		}
		if k.DoStop {
			what += fmt.Sprintf(" stop in %v", k.Grace)
		}
		say("kill %s:%s", k.ID, what)
	}
	if len(a.StopSandboxes) > 0 {
		say("stop sandbox %v", a.StopSandboxes)
	}
	if s := a.Start; s != nil {
		if s.NewSandbox {
			say("new sandbox attempt=%d changed=%v", s.Attempt, s.SandboxChanged)
		}
		for _, c := range s.Containers {
			say("start %s restarts=%d%s", c.Name, c.Restarts, map[bool]string{true: " target=" + c.Target}[c.Target != ""])
		}
	}
	for _, r := range a.Resizes {
		say("resize %s from %s to %s", cmp.Or(r.ID, wholePod), historytest.Written(r.From), historytest.Written(r.To))
	}
	if len(a.Remove) > 0 {
		say("remove %v", a.Remove)
	}
	if len(a.RemoveSandboxes) > 0 {
		say("remove sandbox %v", a.RemoveSandboxes)
	}
	names := make([]string, 0, len(a.Waiting))
	for n := range a.Waiting {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		say("%s waits: %s: %s", n, a.Waiting[n].Reason, a.Waiting[n].Message)
	}
	if !a.Again.IsZero() {
		say("again in %v", a.Again.Sub(w.now))
	}
	if a.Done {
		say("done")
	}
	if len(out) == 0 {
		say("nothing")
	}
	return out
}

// status tells what the API would be told, in short.
func (w *world) status() []string {
	st := report.Status(w.d, w.o, w.acts, w.facts())
	w.last = &st
	return historytest.Status(&st)
}
