package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/bench/usage"
)

// timings collects samples by what was done, in milliseconds.
type timings map[string][]float64

var errEmpty = errors.New("the log is empty")

// pod is a running pod with one container.
type pod struct {
	name, sandbox, container string
}

// call times one CRI call.
func (p *peer) call(b *bench, into timings, what string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(b.ctx, criTimeout)
	defer cancel()
	began := time.Now()
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %s: %w", p.name, what, err)
	}
	into[what] = append(into[what], report.Millis(time.Since(began)))
	return nil
}

const (
	callRun     = "RunPodSandbox"
	callCreate  = "CreateContainer"
	callStart   = "StartContainer"
	callStop    = "StopContainer"
	callStopBox = "StopPodSandbox"
	callRemove  = "RemovePodSandbox"
	callExec    = "ExecSync of /bin/true"

	firstLine = "until the program's first line is in its log"

	cpuStart = "CPU time of it, containers included"
	cpuStop  = "CPU time of it"
	cpuExec  = "CPU time of one"
)

// up starts a pod as a kubelet does.
func (p *peer) up(b *bench, into timings, name string, profile runtimeapi.SecurityProfile_ProfileType) (pod, error) {
	out := pod{name: name}
	logs := "/var/log/pods/bench_" + name
	if err := os.MkdirAll(p.host.Path(logs), 0o755); err != nil {
		return out, err
	}
	box := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "bench", Uid: name}, Hostname: name, LogDirectory: logs,
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.43.0.10"}, Searches: []string{"default.svc.cluster.local"}},
		Labels:    map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "bench"},
		Linux:     &runtimeapi.LinuxPodSandboxConfig{CgroupParent: p.host.CgroupRoot + "/pods", SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
	began := time.Now()
	err := p.call(b, into, callRun, func(ctx context.Context) error {
		r, err := p.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: box})
		out.sandbox = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return out, err
	}
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: appImage}, LogPath: "app.log",
		Labels: map[string]string{"io.kubernetes.container.name": "app"},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       &runtimeapi.LinuxContainerResources{CpuShares: 102, CpuPeriod: 100000, CpuQuota: 50000, MemoryLimitInBytes: 64 * report.MiB},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: box.Linux.SecurityContext.NamespaceOptions, Seccomp: &runtimeapi.SecurityProfile{ProfileType: profile}},
		},
	}
	err = p.call(b, into, callCreate, func(ctx context.Context) error {
		r, err := p.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: out.sandbox, Config: config, SandboxConfig: box})
		out.container = r.GetContainerId()
		return err
	})
	if err != nil {
		return out, err
	}
	err = p.call(b, into, callStart, func(ctx context.Context) error {
		_, err := p.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: out.container})
		return err
	})
	if err != nil {
		return out, err
	}
	if err := p.firstLine(b, p.host.Path(logs+"/app.log")); err != nil {
		return out, fmt.Errorf("%s: the container's program writes nothing: %w", p.name, err)
	}
	into[firstLine] = append(into[firstLine], report.Millis(time.Since(began)))
	return out, nil
}

// firstLine waits until the container's program has written to its log. Only then it minds signals.
func (p *peer) firstLine(b *bench, file string) error {
	ctx, cancel := context.WithTimeout(b.ctx, criTimeout)
	defer cancel()
	return wait(ctx, func() error {
		st, err := os.Stat(file)
		if err == nil && st.Size() == 0 {
			err = errEmpty
		}
		return err
	})
}

// down stops and removes a pod.
func (p *peer) down(b *bench, into timings, o pod) error {
	err := p.call(b, into, callStop, func(ctx context.Context) error {
		_, err := p.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: o.container, Timeout: 10})
		return err
	})
	if err != nil {
		return err
	}
	err = p.call(b, into, callStopBox, func(ctx context.Context) error {
		_, err := p.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: o.sandbox})
		return err
	})
	if err != nil {
		return err
	}
	return p.call(b, into, callRemove, func(ctx context.Context) error {
		_, err := p.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: o.sandbox})
		return err
	})
}

// exec runs a program in a container that runs.
func (p *peer) exec(b *bench, into timings, o pod) error {
	before := usage.CPU(p.host)
	err := p.call(b, into, callExec, func(ctx context.Context) error {
		r, err := p.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: o.container, Cmd: []string{"/bin/true"}, Timeout: 30})
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
		}
		return err
	})
	into[cpuExec] = append(into[cpuExec], usage.CPU(p.host)-before)
	return err
}

const (
	unconfined = runtimeapi.SecurityProfile_Unconfined
	confined   = runtimeapi.SecurityProfile_RuntimeDefault
)

func newTimings(peers []*peer) map[*peer]timings {
	out := map[*peer]timings{}
	for _, p := range peers {
		out[p] = timings{}
	}
	return out
}

// pods measures single pods, then a crowd.
func pods(b *bench, peers []*peer, runs int) error {
	plain, err := serial(b, peers, runs, unconfined)
	if err != nil {
		return err
	}
	b.say("the same with the default seccomp profile")
	filtered, err := serial(b, peers, runs/3+1, confined)
	if err != nil {
		return err
	}
	b.report.Add(fmt.Sprintf("Pod start, image present, %d runs", runs), "ms",
		line(peers, plain, callRun, ""), line(peers, plain, callCreate, ""), line(peers, plain, callStart, ""),
		sum(peers, plain, report.Row{Name: "all three", Goal: "≤ 30 ms"}, callRun, callCreate, callStart),
		line(peers, plain, firstLine, ""), line(peers, plain, cpuStart, ""),
		sum(peers, filtered, report.Row{Name: "all three, RuntimeDefault seccomp"}, callRun, callCreate, callStart))
	b.report.Add("Pod stop", "ms",
		line(peers, plain, callStop, ""), line(peers, plain, callStopBox, ""), line(peers, plain, callRemove, ""),
		sum(peers, plain, report.Row{Name: "all three", Goal: "≤ 25 ms"}, callStop, callStopBox, callRemove),
		line(peers, plain, cpuStop, ""))
	if plain, err = execs(b, peers, unconfined); err != nil {
		return err
	}
	if filtered, err = execs(b, peers, confined); err != nil {
		return err
	}
	b.report.Add(fmt.Sprintf("Exec, %d runs", execRuns), "ms", line(peers, plain, callExec, "≤ 15 ms"), line(peers, plain, cpuExec, ""),
		sum(peers, filtered, report.Row{Name: callExec + ", RuntimeDefault seccomp"}, callExec))
	return crowds(b, peers)
}

// line is the row of one kind of sample.
func line(peers []*peer, taken map[*peer]timings, name, goal string) report.Row {
	r := report.Row{Name: name, Goal: goal}
	for _, p := range peers {
		*p.side(&r) = report.Stats(taken[p][name])
	}
	return r
}

// sum adds up kinds of samples run by run.
func sum(peers []*peer, taken map[*peer]timings, r report.Row, names ...string) report.Row {
	for _, p := range peers {
		sums := make([]float64, len(taken[p][names[0]]))
		for _, name := range names {
			for i, v := range taken[p][name] {
				sums[i] += v
			}
		}
		*p.side(&r) = report.Stats(sums)
	}
	return r
}

// serial starts and stops pods one after the other, in turn on each server. Two rounds warm up.
func serial(b *bench, peers []*peer, runs int, profile runtimeapi.SecurityProfile_ProfileType) (map[*peer]timings, error) {
	taken := newTimings(peers)
	const warm = 2
	for i := range runs + warm {
		for _, p := range peers {
			into := taken[p]
			if i < warm {
				into = timings{}
			}
			if err := p.cycle(b, into, fmt.Sprintf("serial-%d", i), profile); err != nil {
				return nil, err
			}
		}
		if (i+1)%5 == 0 {
			b.say("pod start and stop: %d of %d", i+1, runs+warm)
		}
	}
	return taken, nil
}

func execs(b *bench, peers []*peer, profile runtimeapi.SecurityProfile_ProfileType) (map[*peer]timings, error) {
	taken := newTimings(peers)
	b.say("exec")
	running := map[*peer]pod{}
	for _, p := range peers {
		o, err := p.up(b, timings{}, "exec", profile)
		if err != nil {
			return nil, err
		}
		running[p] = o
	}
	for i := range execRuns + 2 {
		for _, p := range peers {
			into := taken[p]
			if i < 2 {
				into = timings{}
			}
			if err := p.exec(b, into, running[p]); err != nil {
				return nil, err
			}
		}
	}
	for _, p := range peers {
		if err := p.down(b, timings{}, running[p]); err != nil {
			return nil, err
		}
	}
	return taken, nil
}

const (
	execRuns = 30
	crowd    = 50
	clients  = 8
)

// crowds starts many pods at once on each server, reads the memory, and stops them.
func crowds(b *bench, peers []*peer) error {
	up := report.Row{Name: fmt.Sprintf("start %d pods, %d clients", crowd, clients)}
	down := report.Row{Name: fmt.Sprintf("stop and remove them, %d clients", clients)}
	perPod := report.Row{Name: fmt.Sprintf("private memory per running pod, of %d", crowd), Goal: "≤ 0.2 MiB"}
	shims := report.Row{Name: "of it processes per pod (shim, pause)"}
	var rows []report.Row
	for _, p := range peers {
		b.say("%d pods at once on %s", crowd, p.name)
		before := usage.Overhead(usage.Of(p.host))
		all := make([]pod, crowd)
		took, err := parallel(func(i int) (err error) {
			all[i], err = p.up(b, timings{}, fmt.Sprintf("crowd-%d", i), unconfined)
			return err
		})
		if err != nil {
			return err
		}
		*p.side(&up) = report.One(report.Millis(took))
		if err := sleep(b.ctx, 2*time.Second); err != nil {
			return err
		}
		with := usage.Of(p.host)
		if n := with["app"].Processes; n != crowd {
			return fmt.Errorf("%s: %d of %d pods run", p.name, n, crowd)
		}
		*p.side(&perPod) = report.One((usage.Overhead(with) - before) / crowd / report.MiB)
		*p.side(&shims) = report.One(perPodProcesses(with) / report.MiB)
		took, err = parallel(func(i int) error { return p.down(b, timings{}, all[i]) })
		if err != nil {
			return err
		}
		*p.side(&down) = report.One(report.Millis(took))
		rows = append(rows, idleRows(p)...)
	}
	b.report.Add("Many pods", "ms", up, down)
	rows = append([]report.Row{perPod, shims}, rows...)
	b.report.Add("Memory of the CRI server", "MiB", rows...)
	return nil
}

// perPodProcesses is the private memory of one shim and one pause process.
func perPodProcesses(m map[string]usage.Memory) float64 {
	sum := 0.0
	for name, u := range m {
		if name == "pause" || strings.HasPrefix(name, "containerd-shim") {
			sum += u.Private / crowd
		}
	}
	return sum
}

// idleRows reports what the server's processes took before the first pod.
func idleRows(p *peer) []report.Row {
	all := report.Row{Name: "idle, " + p.name + ", RSS of all processes"}
	private := report.Row{Name: "idle, " + p.name + ", private of all processes"}
	*p.side(&all), *p.side(&private) = report.One(usage.Total(p.idle)/report.MiB), report.One(usage.Overhead(p.idle)/report.MiB)
	if p.name == "skiff" {
		all.Goal = "≤ 40 MiB"
	}
	return []report.Row{all, private}
}

// parallel runs f for each pod of the crowd, by so many clients at once.
func parallel(f func(int) error) (time.Duration, error) {
	var g errgroup.Group
	g.SetLimit(clients)
	began := time.Now()
	for i := range crowd {
		g.Go(func() error { return f(i) })
	}
	err := g.Wait()
	return time.Since(began), err
}
