// Package kubelet is the node's agent: it runs the pods that are bound to the node, through CRI only, and tells the
// API how they are. This package is the assembly; README.md has the theory and the map.
package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-node/skiff/kubelet/apart"
	"github.com/skiff-node/skiff/kubelet/certificate"
	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/credentials"
	"github.com/skiff-node/skiff/kubelet/event"
	"github.com/skiff-node/skiff/kubelet/node"
	"github.com/skiff-node/skiff/kubelet/objects"
	"github.com/skiff-node/skiff/kubelet/observe"
	"github.com/skiff-node/skiff/kubelet/probe"
	"github.com/skiff-node/skiff/kubelet/runtime"
	"github.com/skiff-node/skiff/kubelet/runtime/rotate"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
	"github.com/skiff-node/skiff/kubelet/server"
	"github.com/skiff-node/skiff/kubelet/source"
	"github.com/skiff-node/skiff/kubelet/status"
	"github.com/skiff-node/skiff/kubelet/sweep"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/selinux"
	"github.com/skiff-node/skiff/kubelet/worker"
	"github.com/skiff-node/skiff/kubelet/worker/record"
)

// Kubelet is one node's agent. New wires it, Run runs it.
type Kubelet struct {
	cfg    Config
	log    *slog.Logger
	client kubernetes.Interface // nil without an API server

	facts machine
	spec  *spec.Node
	instruments
	runtime  *runtime.Runtime
	objects  *objects.Cache // nil without an API server
	volumes  storage
	cgroups  atomic.Pointer[cgroup.Groups] // once the runtime has told its driver
	probes   *probe.Manager
	statuses *status.Writer
	pool     *worker.Pool
	source   *source.Source
	milestones
	services *services
	node     *node.Manager // nil without an API server
	guard    *guard
	server   *server.Server
	loops    map[string]func(context.Context) error // what else runs: renewal of certificates, rotation of logs
}

// milestones are closed when they are reached.
type milestones struct {
	sourced chan struct{} // all sources have been read
	stopped chan struct{} // Run is to end
}

// New checks the configuration and wires the parts. Nothing runs and nothing is changed yet.
func New(cfg Config) (*Kubelet, error) {
	cfg, err := complete(cfg)
	if err != nil {
		return nil, err
	}
	k := &Kubelet{cfg: cfg, log: cfg.Log, milestones: milestones{make(chan struct{}), make(chan struct{})},
		loops: map[string]func(context.Context) error{}}
	if k.instruments, err = newInstruments(&cfg); err != nil {
		return nil, err
	}
	rc, err := restConfig(&cfg)
	if err != nil {
		return nil, err
	}
	if rc != nil {
		rc.Wrap(k.metrics.API.Wrap)
		rc.Wrap(k.tracing.Transport)
	}
	var events kubernetes.Interface
	if rc != nil && cfg.Configuration.RotateCertificates {
		client, err := certificate.NewClient(rc, cfg.CertDir, cfg.NodeName, k.certificates)
		if err != nil {
			return nil, err
		}
		k.loops["client certificate"] = client.Run
	}
	if rc != nil {
		if k.client, err = kubernetes.NewForConfig(rc); err != nil {
			return nil, fmt.Errorf("make API client: %w", err)
		}
		if events, err = kubernetes.NewForConfig(eventConfig(rc, cfg.Configuration)); err != nil {
			return nil, fmt.Errorf("make API client for events: %w", err)
		}
	}
	if err := checkMachine(cfg.Configuration); err != nil {
		return nil, err
	}
	if k.facts, err = readMachine(&cfg); err != nil {
		return nil, err
	}
	cfg.Configuration.MaxPods = maxPods(cfg.Configuration, k.facts.cpus)
	k.events = event.New(events, cfg.NodeName)
	for _, part := range []func() error{k.newObjects, k.newRuntime, k.newVolumes, k.newWorkers, k.newGuard, k.newNode, k.newServer} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// newRuntime makes the CRI client and what it needs to translate pods.
func (k *Kubelet) newRuntime() error {
	c := k.cfg.Configuration
	k.spec = &spec.Node{
		Name: k.cfg.NodeName, IPs: k.facts.ips, ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain,
		ResolvConf: *c.ResolverConfig, LogsDir: k.cfg.PodLogsDir, SeccompDefault: *c.SeccompDefault,
		SeccompDir: filepath.Join(k.cfg.RootDir, "seccomp"), Memory: k.facts.memory, CPUCFSQuota: *c.CPUCFSQuota, QuotaPeriod: c.CPUCFSQuotaPeriod.Microseconds(),
		Allocatable: k.allocatable, Sysctls: c.DefaultPodSysctls,
	}
	k.facts.usage.Allocatable = func() int64 { list := k.allocatable(); return list.Memory().Value() }
	k.spec.Tune = k.facts.usage.Tune
	k.services = newServices(k.client)
	err := newClaims(k)
	if err != nil {
		return err
	}
	if k.spec.UserNamespace, err = userNamespaces(k); err != nil {
		return err
	}
	plugins, err := credentials.Load(credentials.Config{File: k.cfg.CredentialProviderConfig, Dir: k.cfg.CredentialProviderDir, Accounts: accountsOf(k.client, k.volumes.tokens), Log: k.log})
	if err != nil {
		return err
	}
	if k.facts.pulls, err = pullRecords(&k.cfg, k.metrics); err != nil {
		return err
	}
	k.runtime, err = runtime.New(runtime.Config{
		Credentials: plugins.For, Pulls: k.facts.pulls, Labelled: selinux.Host{}.Enabled(), Metrics: k.metrics.Runtime, Dial: k.tracing.Dial(),
		Endpoint: k.cfg.Endpoint, ImageEndpoint: c.ImageServiceEndpoint, Node: k.spec, PodsDir: filepath.Join(k.cfg.RootDir, "pods"),
		Objects: k.reader(), Services: k.services.of, Events: k.events, Starting: k.events.Starting, ParallelPulls: parallelPulls(c),
		PullRate: pullRate(c), PullBurst: int(c.RegistryBurst), Timeout: c.RuntimeRequestTimeout.Duration,
		SubPath:        func(ctx context.Context, s volume.SubPath) (string, error) { return k.volumes.SubPath(ctx, s) },
		RuntimeHandler: runtimeHandler(k.client), Extras: []runtime.Extra{k.facts.claims.Extra, (*admission)(k).extra},
	})
	if err != nil {
		return err
	}
	calls, _ := k.runtime.CRI()
	size, err := resource.ParseQuantity(c.ContainerLogMaxSize)
	if err != nil || size.Value() <= 0 {
		return fmt.Errorf("containerLogMaxSize: %q is no positive quantity", c.ContainerLogMaxSize)
	}
	rotator, err := rotate.New(rotate.Config{Runtime: calls, Running: func() []string { return worker.Running(k.pool) }, MaxSize: size.Value(), MaxFiles: int(*c.ContainerLogMaxFiles), Period: c.ContainerLogMonitorInterval.Duration, Log: k.log})
	if err != nil {
		return err
	}
	k.loops["container logs"] = rotator.Run
	return newAssigner(k)
}

// newWorkers makes the pool of workers and everything that feeds it.
func (k *Kubelet) newWorkers() error {
	c := k.cfg.Configuration
	k.probes = probe.New(probe.Config{Checker: probe.Checks{Exec: k.runtime.Exec}, Events: k.events, Log: k.log,
		Changed: func(uid types.UID) { k.pool.Wake(uid) }, Checked: instruments{metrics: k.metrics}.probed})
	k.statuses = status.New(status.Config{Client: k.client, Log: k.log, Wrote: k.metrics.Pods.StatusWritten, Target: func(p *v1.Pod) *v1.Pod { return k.source.Shown(p) }})
	wc := worker.Config{
		Runtime: k.runtime, Volumes: k.volumes.Manager, Cgroups: (*cgroups)(k), Probes: k.probes, Statuses: newPodsAPI(k), Events: k.events, Claims: k.facts.claims,
		Records: record.Files(filepath.Join(k.cfg.RootDir, "pods")), Admit: (*admission)(k).admit, Resize: (*admission)(k).resize, Health: k.facts.assigned.Health, Over: k.facts.assigned.Release, Instruments: worker.Instruments{Metrics: k.metrics.Pods, Resizes: k.metrics.Resizes, Trace: k.tracing.Pods()}, HostIPs: func() []string { return k.facts.ips }, Log: k.log,
		Delete: func(ctx context.Context, p *v1.Pod) error { return k.source.Delete(ctx, p) },
	}
	wc.Unregister = func(uid types.UID) { k.metrics.Forget(string(uid)) }
	if k.objects != nil {
		wc.Register = func(p *v1.Pod) { k.objects.Register(p); k.volumes.Update(p) }
		wc.Unregister = func(uid types.UID) { k.objects.Unregister(uid); k.metrics.Forget(string(uid)) }
	}
	wc.Gone = func() { k.source.Poke() }
	wc.MaxBackoff = c.CrashLoopBackOff.MaxContainerRestartPeriod.Duration
	k.pool = worker.NewPool(wc)
	k.census(k.pool, k.volumes.Manager)
	k.source = source.New(source.Config{Client: k.client, NodeName: k.cfg.NodeName, NodeUID: k.nodeUID, Dir: c.StaticPodPath,
		Period: c.FileCheckFrequency.Duration, URL: c.StaticPodURL, URLHeader: c.StaticPodURLHeader, URLPeriod: c.HTTPCheckFrequency.Duration, Sink: k.pool, Ready: func() { worker.Settled(k.pool); close(k.sourced) }, Log: k.log})
	return nil
}

// Run runs the kubelet until ctx ends or a part fails for good. Containers are left running.
func (k *Kubelet) Run(ctx context.Context) error {
	defer k.close()
	if err := k.directories(); err != nil {
		return err
	}
	if err := k.connect(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	context.AfterFunc(ctx, func() { close(k.stopped) })
	for name, run := range k.parts() {
		group.Go(func() error {
			err := run(ctx)
			if ctx.Err() != nil || err == nil {
				return nil
			}
			return fmt.Errorf("%s: %w", name, err)
		})
	}
	return group.Wait()
}

// parts are the loops that make up a running kubelet.
func (k *Kubelet) parts() map[string]func(context.Context) error {
	calls, _ := k.runtime.CRI()
	watcher := observe.New(observe.Config{Stream: calls, List: k.runtime.Fingerprints, Changed: k.pool.Changed, Metrics: k.metrics.Events, Log: k.log})
	parts := map[string]func(context.Context) error{
		"pod workers": k.pool.Run, "pod sources": k.source.Run, "runtime watch": watcher.Run, "volumes": k.volumes.run, "sweep": k.sweep,
		"guard": k.guard.run,
	}
	if k.client != nil {
		parts["services"] = k.services.run
	}
	if k.node != nil {
		parts["node"] = k.node.Run
	}
	maps.Copy(parts, k.loops)
	if k.server != nil {
		parts["server"] = k.server.Run
	}
	return parts
}

// sweep ends what was left behind while no kubelet ran. The groups are known once the runtime has answered.
func (k *Kubelet) sweep(ctx context.Context) error {
	found := func(ctx context.Context) ([]*v1.Pod, error) { return runtime.Rebuilt(ctx, k.runtime) }
	return sweep.Run(ctx, sweep.Config{Sourced: k.sourced, Runtime: found, Pool: k.pool, Log: k.log,
		Retain: []func(context.Context, func(types.UID) bool) error{k.facts.claims.Retain, k.volumes.Retain, (*cgroups)(k).groups().Retain}})
}

// directories makes those that all pods have theirs in.
func (k *Kubelet) directories() error {
	if err := apart.Make(filepath.Join(k.cfg.RootDir, "pods"), 0o750); err != nil {
		return fmt.Errorf("make the directory of pods: %w", err)
	}
	if err := apart.Make(k.cfg.PodLogsDir, 0o755); err != nil {
		return fmt.Errorf("make the directory of pods' logs: %w", err)
	}
	return nil
}

// connect waits for the runtime and makes the cgroups that pods live below.
func (k *Kubelet) connect(ctx context.Context) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		name, version, err := k.runtime.Version(ctx)
		if err == nil {
			k.log.Info("container runtime answers", "name", name, "version", version)
			break
		}
		k.log.Warn("container runtime does not answer, will be asked again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	if c := k.cfg.Configuration; k.client == nil && c.PodCIDR != "" {
		calls, _ := k.runtime.CRI()
		if err := podCIDRs(calls)(ctx, []string{c.PodCIDR}); err != nil {
			return fmt.Errorf("podCIDR: tell the runtime: %w", err)
		}
	}
	adjustProcess(k.cfg.Configuration, k.log)
	return k.newCgroups(ctx)
}

func (k *Kubelet) close() {
	if m := k.cgroups.Load(); m != nil {
		if err := (*m).Close(); err != nil {
			k.log.Debug("close the connection to systemd", "err", err)
		}
	}
	k.probes.Close()
	k.statuses.Close()
	k.events.Close()
	if k.objects != nil {
		k.objects.Close()
	}
	if err := k.runtime.Close(); err != nil {
		k.log.Debug("close runtime connection", "err", err)
	}
	k.tracing.Close()
}

// Pods lists the node's pods with their newest statuses.
func (k *Kubelet) Pods() []*v1.Pod { return k.pool.Pods() }
