// Package nri lets NRI plugins (github.com/containerd/nri) take part in the life of sandboxes and containers. It is the
// only package that knows NRI: the engine sees hooks.Hooks.
//
// A plugin that joins is first told what there is (Synchronize), then each thing that happens. Between the two nothing
// can happen: the engine holds off joining plugins (Hold) from where a call begins until what it makes can be seen.
//
// Without a plugin a hook costs a lock and a number: nothing is translated.
package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	nri "github.com/containerd/nri/pkg/adaptation"
	nrilog "github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
)

// Validator configures NRI's own validator, which can refuse kinds of adjustments.
type Validator = validator.DefaultValidatorConfig

// Runtime is what plugins may ask of the runtime.
type Runtime interface {
	// Pods and Units are all sandboxes and containers.
	Pods() []hooks.Pod
	Units() []hooks.Unit
	// ApplyResources changes a container's resources without asking any plugin.
	ApplyResources(ctx context.Context, id string, r runtimeservice.Resources) error
}

// Config says where plugins are.
type Config struct {
	Runtime   Runtime // required
	Version   string  // of skiff
	Socket    string  // where plugins connect; "": they may not
	PluginDir string  // executables started with the runtime, as 10-name
	ConfigDir string  // their configuration, 10-name.conf or name.conf
	// Registration and Request limit what a plugin may take to register, and to answer. 0: NRI's defaults (5 and 2 s).
	Registration, Request time.Duration
	Validator             Validator
	// InjectCDI adds devices to a specification by their CDI names. Nil: an adjustment that needs it fails.
	InjectCDI func(s *specs.Spec, devices []string) error
	Log       *slog.Logger // required
}

// Plugins implements hooks.Hooks.
type Plugins struct {
	config     Config
	adaptation *nri.Adaptation
	active     atomic.Int32 // plugins that take part

	wait  sync.WaitGroup
	mu    sync.Mutex
	known map[string]*fate
}

var _ hooks.Hooks = (*Plugins)(nil)

// New makes the place for plugins; Start lets them in.
func New(c Config) (*Plugins, error) {
	nrilog.Set(logger{slog.New(slog.DiscardHandler)}) // New complains of a build without WebAssembly
	if c.Registration > 0 {
		nri.SetPluginRegistrationTimeout(c.Registration)
	}
	if c.Request > 0 {
		nri.SetPluginRequestTimeout(c.Request)
	}
	p := &Plugins{config: c, known: map[string]*fate{}}
	options := []nri.Option{
		nri.WithPluginPath(c.PluginDir), nri.WithPluginConfigPath(c.ConfigDir),
		nri.WithMetrics(counter{&p.active}), nri.WithDefaultValidator(&c.Validator),
	}
	if c.Socket == "" {
		options = append(options, nri.WithDisabledExternalConnections())
	} else {
		options = append(options, nri.WithSocketPath(c.Socket))
	}
	var err error
	if p.adaptation, err = nri.New("skiff", c.Version, p.synchronize, p.unsolicited, options...); err != nil {
		return nil, fmt.Errorf("NRI: %w", err)
	}
	nrilog.Set(logger{c.Log})
	return p, nil
}

// Start starts the plugins of the plugin directory and listens for others. It is called when the runtime knows what
// there is. A socket on which somebody answers belongs to another runtime and is left to it.
func (p *Plugins) Start() error {
	if p.config.Socket != "" {
		conn, err := net.DialTimeout("unix", p.config.Socket, time.Second)
		if err == nil {
			return errors.Join(fmt.Errorf("NRI: another runtime serves plugins at %s", p.config.Socket), conn.Close())
		}
	}
	if err := p.adaptation.Start(); err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	return nil
}

// Close ends the plugins that were started, and disconnects the others.
func (p *Plugins) Close() {
	p.adaptation.Stop()
	p.wait.Wait()
}

// Anybody implements hooks.Hooks.
func (p *Plugins) Anybody() bool { return p.active.Load() > 0 }

// Hold implements hooks.Hooks.
func (p *Plugins) Hold() (release func()) { return p.adaptation.BlockPluginSync().Unblock }

// synchronize tells a plugin that joins what there is.
func (p *Plugins) synchronize(ctx context.Context, tell nri.SyncCB) error {
	var pods []*nri.PodSandbox
	var containers []*nri.Container
	for _, pod := range p.config.Runtime.Pods() {
		if pod.State == runtimeservice.SandboxReady {
			p.fate(pod.ID).set(running)
			pods = append(pods, toPod(pod))
		}
	}
	for _, unit := range p.config.Runtime.Units() {
		if unit.State != runtimeservice.ContainerCreated && unit.State != runtimeservice.ContainerRunning {
			continue
		}
		c, err := toContainer(unit, nil)
		if err != nil {
			p.config.Log.Warn("a container is not shown to a plugin that joins", "container", unit.ID, "error", err)
			continue
		}
		p.fate(unit.ID).set(running)
		containers = append(containers, c)
	}
	updates, err := tell(ctx, pods, containers)
	if err != nil {
		return err
	}
	p.apply(ctx, updates)
	return nil
}

// unsolicited is called when a plugin wants containers changed, and returns what could not be.
func (p *Plugins) unsolicited(ctx context.Context, updates []*nri.ContainerUpdate) ([]*nri.ContainerUpdate, error) {
	return p.apply(ctx, updates), nil
}

// applyLimit bounds the wait for another call on the same container, which may wait for us.
const applyLimit = 5 * time.Second

// apply changes containers at a plugin's wish. What fails is logged and returned, unless the plugin does not care.
func (p *Plugins) apply(ctx context.Context, updates []*nri.ContainerUpdate) (failed []*nri.ContainerUpdate) {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	for _, u := range updates {
		resources, err := fromResources(u.GetLinux().GetResources())
		if err == nil {
			err = p.config.Runtime.ApplyResources(ctx, u.GetContainerId(), resources)
		}
		if errors.Is(err, runtimeservice.ErrNotFound) {
			continue
		}
		if err == nil {
			p.config.Log.Info("container updated by a plugin", "container", u.GetContainerId())
			continue
		}
		p.config.Log.Warn("a plugin's update failed", "container", u.GetContainerId(), "error", err)
		if !u.GetIgnoreFailure() {
			failed = append(failed, u)
		}
	}
	return failed
}

// refuse says that containers are not evicted at a plugin's wish: the kubelet would only start them again.
func (p *Plugins) refuse(evictions []*nri.ContainerEviction) {
	for _, e := range evictions {
		p.config.Log.Warn("a plugin asks for an eviction, which is refused: containers are stopped by the kubelet only",
			"container", e.GetContainerId(), "reason", e.GetReason())
	}
}

// logger gives NRI's messages to ours. What it calls information is about connections.
type logger struct{ log *slog.Logger }

func (l logger) say(ctx context.Context, level slog.Level, format string, args []any) {
	if l.log.Enabled(ctx, level) {
		l.log.Log(ctx, level, fmt.Sprintf(format, args...))
	}
}

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelDebug, format, args)
}
func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelDebug, format, args)
}
func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelWarn, format, args)
}
func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.say(ctx, slog.LevelError, format, args)
}

// counter learns how many plugins there are.
type counter struct{ active *atomic.Int32 }

func (c counter) UpdatePluginCount(count int)                                             { c.active.Store(int32(count)) }
func (counter) RecordPluginInvocation(_, _ string, _ error)                               {}
func (counter) RecordPluginLatency(_, _ string, _ time.Duration)                          {}
func (counter) RecordPluginAdjustments(_, _ string, _ *nri.ContainerAdjustment, _, _ int) {}
