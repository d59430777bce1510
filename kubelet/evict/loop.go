package evict

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Config is what a Loop needs.
type Config struct {
	Thresholds []Threshold
	// Transition is how long a condition outlives its shortage; 0 means 5 min.
	Transition time.Duration
	// Period is how often to look; 0 means 10 s.
	Period time.Duration
	// Measure returns what is left of each signal. One that cannot be measured is left out.
	Measure func(ctx context.Context) map[Signal]Value
	// Pods returns the pods with what they use. It is asked only when one may have to go, or Limited says so.
	Pods func(ctx context.Context) ([]Pod, error)
	// Limited reports whether any pod has a limit of its own for disk. May be nil: pods are not held to such limits.
	Limited func() bool
	// Layout tells on which file systems the node's files lie. May be nil: all on one.
	Layout func(ctx context.Context) (Layout, error)
	// FreeContainers removes dead containers that nobody needs, FreeImages images that nobody uses. May be nil.
	FreeContainers, FreeImages func(ctx context.Context) error
	// Evict ends a pod for good, with the reason Evicted.
	Evict func(Victim)
	// Changed is told that the node's conditions changed. May be nil.
	Changed func()
	// Log may be nil.
	Log *slog.Logger
}

// Loop looks at the node and acts.
type Loop struct {
	cfg Config

	mu       sync.Mutex
	pressure map[Condition]bool
	state    State // Run's goroutine alone
}

// New checks the configuration.
func New(cfg Config) (*Loop, error) {
	if cfg.Measure == nil || cfg.Pods == nil || cfg.Evict == nil {
		return nil, errors.New("evict: Measure, Pods and Evict are required")
	}
	if cfg.Transition == 0 {
		cfg.Transition = 5 * time.Minute
	}
	if cfg.Period == 0 {
		cfg.Period = 10 * time.Second
	}
	if cfg.Layout == nil {
		cfg.Layout = func(context.Context) (Layout, error) { return Layout{}, nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Loop{cfg: cfg, pressure: map[Condition]bool{}}, nil
}

// Under reports whether the node says that condition of itself.
func (l *Loop) Under(c Condition) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pressure[c]
}

// Conditions lists those that the node says of itself.
func (l *Loop) Conditions() []v1.NodeConditionType {
	var list []v1.NodeConditionType
	for _, c := range []Condition{MemoryPressure, DiskPressure, PIDPressure} {
		if l.Under(c) {
			list = append(list, v1.NodeConditionType(c))
		}
	}
	return list
}

// Run looks every period until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	beat := time.NewTicker(l.cfg.Period)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-beat.C:
			l.Look(ctx, now)
		}
	}
}

// Look measures once and evicts at most one pod for a shortage, unless some are above their own limits: then those.
func (l *Loop) Look(ctx context.Context, now time.Time) {
	v := Assess(l.state, l.cfg.Thresholds, l.cfg.Measure(ctx), l.cfg.Transition, now)
	l.state = v.State
	l.publish(v.Pressure)
	limited := l.cfg.Limited != nil && l.cfg.Limited()
	if v.Act == nil && !limited {
		return
	}
	layout, err := l.cfg.Layout(ctx)
	if err != nil {
		l.cfg.Log.Warn("eviction cannot see which file systems there are", "err", err)
		return
	}
	pods, err := l.cfg.Pods(ctx)
	if err != nil {
		l.cfg.Log.Warn("eviction cannot see what pods use", "err", err)
		return
	}
	if limited && l.evictOverLimit(layout, pods) || v.Act == nil || l.reclaimed(ctx, layout.reclaim(v.Act.Threshold.Signal)) {
		return
	}
	victim := Choose(*v.Act, layout, pods)
	if victim == nil {
		l.cfg.Log.Warn("the node is short of a resource and no pod may be evicted", "signal", v.Act.Threshold.Signal)
		return
	}
	l.cfg.Log.Warn("evicting a pod", "pod", victim.Pod.Namespace+"/"+victim.Pod.Name, "signal", v.Act.Threshold.Signal, "available", v.Act.Value.Available)
	l.cfg.Evict(*victim)
}

// evictOverLimit ends the pods that use more disk than they may, and tells whether there were any.
func (l *Loop) evictOverLimit(layout Layout, pods []Pod) (any bool) {
	for _, p := range pods {
		if over := OverLimit(p, layout); over != nil && !pod.Critical(p.Pod) {
			l.cfg.Evict(*over)
			any = true
		}
	}
	return any
}

func (l *Loop) publish(pressure map[Condition]bool) {
	l.mu.Lock()
	changed := len(l.pressure) != len(pressure)
	for c := range pressure {
		changed = changed || !l.pressure[c]
	}
	l.pressure = pressure
	l.mu.Unlock()
	if changed {
		l.cfg.Changed()
	}
}

// reclaimed removes what may be removed before a pod has to go, and tells whether the node is short of nothing then.
func (l *Loop) reclaimed(ctx context.Context, r Reclaim) bool {
	tried := false
	for _, part := range []struct {
		what string
		do   bool
		free func(context.Context) error
	}{{"containers", r.Containers, l.cfg.FreeContainers}, {"images", r.Images, l.cfg.FreeImages}} {
		if !part.do || part.free == nil {
			continue
		}
		tried = true
		if err := part.free(ctx); err != nil {
			l.cfg.Log.Warn("what is unused could not all be removed", "what", part.what, "err", err)
		}
	}
	return tried && !short(l.cfg.Thresholds, l.cfg.Measure(ctx))
}
