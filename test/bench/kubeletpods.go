package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/bench/usage"
	"github.com/skiff-node/skiff/test/harness"
)

const (
	lifeRounds = 5
	nodeful    = 110 // pods of a full node, upstream's default

	rowStatic  = "static pod written → Running in the API"
	rowBound   = "pod created → Running in the API"
	rowAgain   = "container ends → its next one says its first line"
	rowCounted = "container ends → restart in the API"
	rowOver    = "container ends → Succeeded in the API"
	rowGone    = "pod deleted → gone from the API"

	rowAway = "all deleted at once → gone from the API"
	rowWork = "CPU time of the kubelet for both"
)

var rowCrowd = fmt.Sprintf("%d pods created at once → all Running in the API", crowd)

// workload is a pod of one container on this node: no scheduler comes between.
func (a *agent) workload(name string) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{NodeName: a.host.Name, Containers: []corev1.Container{
			{Name: "app", Image: appImage, ImagePullPolicy: corev1.PullIfNotPresent}}},
	}
}

func (a *agent) create(ctx context.Context, p *corev1.Pod) error {
	_, err := a.client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
	return err
}

func (a *agent) delete(ctx context.Context, name string) error {
	return a.client.CoreV1().Pods("default").Delete(ctx, name, metav1.DeleteOptions{})
}

// reach notes how long after began the pods are as wanted.
func (a *agent) reach(ctx context.Context, into timings, what string, wanted func() bool, began time.Time) error {
	if err := a.pods.until(ctx, a.name+": "+what, wanted); err != nil {
		return err
	}
	into[what] = append(into[what], report.Millis(time.Since(began)))
	return nil
}

// lives follows single pods through their lives, in turn on each kubelet. One round warms up.
func lives(b *bench, agents []*agent) error {
	taken := map[*agent]timings{}
	for _, a := range agents {
		taken[a] = timings{}
	}
	for i := range lifeRounds + 1 {
		b.say("lives of pods: %d of %d", i, lifeRounds)
		for _, a := range agents {
			into := taken[a]
			if i == 0 {
				into = timings{}
			}
			if err := a.live(b.ctx, into, i); err != nil {
				return err
			}
		}
	}
	row := func(name, goal string) report.Row {
		r := report.Row{Name: name, Goal: goal}
		for _, a := range agents {
			*a.side(&r) = report.Stats(taken[a][name])
		}
		return r
	}
	b.report.Against("upstream", fmt.Sprintf("Kubelet: a pod's life, %d runs", lifeRounds), "ms", row(rowStatic, "≤ 60 ms"), row(rowBound, ""),
		row(rowAgain, ""), row(rowCounted, ""), row(rowOver, ""), row(rowGone, ""))
	return nil
}

// live follows three pods, one after the other.
func (a *agent) live(ctx context.Context, into timings, round int) error {
	for _, f := range []func(context.Context, timings, int) error{a.static, a.restarted, a.finished} {
		if err := f(ctx, into, round); err != nil {
			return err
		}
	}
	return nil
}

// static puts a static pod's file in place, whole, and takes it away.
func (a *agent) static(ctx context.Context, into timings, round int) error {
	name := fmt.Sprintf("static-%d", round)
	p := a.workload(name)
	p.Spec.NodeName = ""
	text, err := yaml.Marshal(p)
	if err != nil {
		return err
	}
	const draft = "/etc/kubernetes/draft.yaml"
	if err := harness.Write(a.host, draft, string(text)); err != nil {
		return err
	}
	file, mirror := a.host.Path(filepath.Join(harness.StaticPods, name+".yaml")), name+"-"+a.host.Name
	began := time.Now()
	if err := os.Rename(a.host.Path(draft), file); err != nil {
		return err
	}
	if err := a.reach(ctx, into, rowStatic, func() bool { return a.pods.running(mirror, 0) }, began); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	return a.pods.until(ctx, "the static pod is gone", func() bool { return a.pods.get(mirror) == nil })
}

// restarted ends a pod's container, which is started again at once the first time, and deletes the pod.
func (a *agent) restarted(ctx context.Context, into timings, round int) error {
	p := a.workload(fmt.Sprintf("again-%d", round))
	began := time.Now()
	if err := a.create(ctx, p); err != nil {
		return err
	}
	if err := a.reach(ctx, into, rowBound, func() bool { return a.pods.running(p.Name, 0) }, began); err != nil {
		return err
	}
	began, err := a.end(ctx, p.Name)
	if err == nil {
		err = a.says(ctx, p.Name, 1)
	}
	if err != nil {
		return err
	}
	into[rowAgain] = append(into[rowAgain], report.Millis(time.Since(began)))
	if err := a.reach(ctx, into, rowCounted, func() bool { return a.pods.running(p.Name, 1) }, began); err != nil {
		return err
	}
	began = time.Now()
	if err := a.delete(ctx, p.Name); err != nil {
		return err
	}
	return a.reach(ctx, into, rowGone, func() bool { return a.pods.get(p.Name) == nil }, began)
}

// finished ends the container of a pod that is over then.
func (a *agent) finished(ctx context.Context, into timings, round int) error {
	p := a.workload(fmt.Sprintf("once-%d", round))
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	if err := a.create(ctx, p); err != nil {
		return err
	}
	if err := a.pods.until(ctx, "the pod runs", func() bool { return a.pods.running(p.Name, 0) }); err != nil {
		return err
	}
	began, err := a.end(ctx, p.Name)
	if err != nil {
		return err
	}
	over := func() bool { return a.pods.get(p.Name).Status.Phase == corev1.PodSucceeded }
	if err := a.reach(ctx, into, rowOver, over, began); err != nil {
		return err
	}
	if err := a.delete(ctx, p.Name); err != nil {
		return err
	}
	return a.pods.until(ctx, "the pod is gone", func() bool { return a.pods.get(p.Name) == nil })
}

// end tells the container's program to end, as soon as it minds it, and returns when.
func (a *agent) end(ctx context.Context, name string) (time.Time, error) {
	if err := a.says(ctx, name, 0); err != nil {
		return time.Time{}, err
	}
	uid := string(a.pods.get(name).UID)
	for _, pid := range a.host.Processes() {
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if usage.Program(pid) == "app" && strings.Contains(string(cgroup), uid) {
			began := time.Now()
			return began, unix.Kill(pid, unix.SIGTERM)
		}
	}
	return time.Time{}, fmt.Errorf("%s: the program of pod %s is not found", a.name, name)
}

// says waits for the first line in a container's log: from then on the program minds signals.
func (a *agent) says(ctx context.Context, name string, attempt int) error {
	log := fmt.Sprintf("/var/log/pods/default_%s_%s/app/%d.log", name, a.pods.get(name).UID, attempt)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return wait(ctx, func() error {
		st, err := os.Stat(a.host.Path(log))
		if err == nil && st.Size() == 0 {
			err = errEmpty
		}
		return err
	})
}

// many does something for each of the pods, by so many clients at once.
func many(names []string, do func(string) error) error {
	var g errgroup.Group
	g.SetLimit(clients)
	for _, name := range names {
		g.Go(func() error { return do(name) })
	}
	return g.Wait()
}

func named(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// crowd creates pods at once and waits until all run.
func (a *agent) crowd(ctx context.Context, names []string, shape func(*corev1.Pod)) error {
	err := many(names, func(name string) error {
		p := a.workload(name)
		shape(p)
		return a.create(ctx, p)
	})
	if err != nil {
		return err
	}
	return a.pods.until(ctx, a.name+": all pods run", func() bool {
		return !slices.ContainsFunc(names, func(name string) bool { return !a.pods.running(name, 0) })
	})
}

// away deletes pods at once and waits until all are gone.
func (a *agent) away(ctx context.Context, names []string) error {
	if err := many(names, func(name string) error { return a.delete(ctx, name) }); err != nil {
		return err
	}
	return a.pods.until(ctx, a.name+": all pods are gone", func() bool {
		return !slices.ContainsFunc(names, func(name string) bool { return a.pods.get(name) != nil })
	})
}

func asIs(*corev1.Pod) {}

// bursts starts many pods at once on each kubelet, and deletes them.
func bursts(b *bench, agents []*agent) error {
	up, down, work := report.Row{Name: rowCrowd, Goal: "≤ 2000 ms"}, report.Row{Name: rowAway}, report.Row{Name: rowWork}
	names := named("crowd", crowd)
	for _, a := range agents {
		b.say("%d pods at once under the kubelet of %s", crowd, a.name)
		into := timings{}
		if err := a.burst(b.ctx, into, names); err != nil {
			return err
		}
		for _, r := range []*report.Row{&up, &down, &work} {
			*a.side(r) = report.Stats(into[r.Name])
		}
	}
	b.report.Against("upstream", "Kubelet: many pods", "ms", up, down, work)
	return nil
}

// burst does it once.
func (a *agent) burst(ctx context.Context, into timings, names []string) error {
	before, began := a.cpu(), time.Now()
	if err := a.crowd(ctx, names, asIs); err != nil {
		return err
	}
	into[rowCrowd] = append(into[rowCrowd], report.Millis(time.Since(began)))
	began = time.Now()
	if err := a.away(ctx, names); err != nil {
		return err
	}
	into[rowAway], into[rowWork] = append(into[rowAway], report.Millis(time.Since(began))), append(into[rowWork], a.cpu()-before)
	return nil
}

// cpu is the processor time, in milliseconds, that the kubelet's process has taken.
func (a *agent) cpu() float64 { return usage.CPUBelow(a.host.CgroupRoot + "/kubelet") }

// probing measures 100 probes a second: of 25 pods with 2 containers, each probed in two ways each second.
func probing(b *bench, agents []*agent) error {
	const settle, window = 4 * time.Second, 10 * time.Second
	done, kubelet, all := report.Row{Name: "probes carried out in a second"}, report.Row{Name: "CPU time of the kubelet in a second (ms)"}, report.Row{Name: "CPU time of the whole host in a second (ms)"}
	names := named("probed", 25)
	for _, a := range agents {
		b.say("100 exec probes a second under the kubelet of %s", a.name)
		if err := a.crowd(b.ctx, names, probed); err != nil {
			return err
		}
		if err := sleep(b.ctx, settle); err != nil {
			return err
		}
		before, err := a.probes(b.ctx)
		own, host, began := a.cpu(), usage.CPU(a.host), time.Now()
		if err = errors.Join(err, sleep(b.ctx, window)); err != nil {
			return err
		}
		own, host = a.cpu()-own, usage.CPU(a.host)-host
		after, err := a.probes(b.ctx)
		if err != nil {
			return err
		}
		seconds := time.Since(began).Seconds()
		*a.side(&done), *a.side(&kubelet), *a.side(&all) = report.One((after-before)/seconds), report.One(own/seconds), report.One(host/seconds)
		if err := a.away(b.ctx, names); err != nil {
			return err
		}
	}
	b.report.Against("upstream", "Kubelet: 100 exec probes a second", "per second", done, kubelet, all)
	return nil
}

// probed gives a pod two containers with two probes each. A slow answer is no failure: the machine may have a lot to do.
func probed(p *corev1.Pod) {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/true"}}},
		PeriodSeconds: 1, TimeoutSeconds: 30, FailureThreshold: 10}
	c := p.Spec.Containers[0]
	c.LivenessProbe, c.ReadinessProbe = probe, probe
	other := c
	other.Name = "other"
	p.Spec.Containers = []corev1.Container{c, other}
}

// resting measures a full node that has nothing to do: all kubelets at the same time.
func resting(b *bench, agents []*agent) error {
	const settle, window = 15 * time.Second, 20 * time.Second
	b.say("%d pods at rest", nodeful)
	var g errgroup.Group
	for _, a := range agents {
		g.Go(func() error { return a.crowd(b.ctx, named("rest", nodeful), asIs) })
	}
	if err := errors.Join(g.Wait(), sleep(b.ctx, settle)); err != nil {
		return err
	}
	rss, private := report.Row{Name: "RSS of the kubelet", Goal: "≤ 45 MB"}, report.Row{Name: "private memory of the kubelet"}
	own, host := report.Row{Name: "CPU time of the kubelet in a second"}, report.Row{Name: "CPU time of the whole host in a second"}
	before, began := map[*agent][2]float64{}, time.Now()
	for _, a := range agents {
		before[a] = [2]float64{a.cpu(), usage.CPU(a.host)}
	}
	if err := sleep(b.ctx, window); err != nil {
		return err
	}
	seconds := time.Since(began).Seconds()
	for _, a := range agents {
		*a.side(&own), *a.side(&host) = report.One((a.cpu()-before[a][0])/seconds), report.One((usage.CPU(a.host)-before[a][1])/seconds)
		m := usage.Below(a.host.CgroupRoot + "/kubelet")
		*a.side(&rss), *a.side(&private) = report.One(m.RSS/report.MiB), report.One(m.Private/report.MiB)
	}
	b.report.Against("upstream", fmt.Sprintf("Kubelet: memory with %d pods at rest", nodeful), "MiB", rss, private)
	b.report.Against("upstream", fmt.Sprintf("Kubelet: %d pods at rest", nodeful), "ms", own, host)
	return nil
}
