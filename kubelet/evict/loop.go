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
	// FreeImages removes unused images and returns the bytes that freed. May be nil.
	FreeImages func(ctx context.Context) (uint64, error)
	// Evict ends a pod for good, with the reason Evicted. hard pods get one second, others their own grace period.
	Evict func(pod *v1.Pod, message string, hard bool)
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

// Look measures once and evicts at most one pod for a shortage, beside those above their own limits.
func (l *Loop) Look(ctx context.Context, now time.Time) {
	v := Assess(l.state, l.cfg.Thresholds, l.cfg.Measure(ctx), l.cfg.Transition, now)
	l.state = v.State
	l.publish(v.Pressure)
	if v.Act != nil && conditionOf(v.Act.Threshold.Signal) == DiskPressure && l.freed(ctx, *v.Act) {
		v.Act = nil
	}
	limited := l.cfg.Limited != nil && l.cfg.Limited()
	if v.Act == nil && !limited {
		return
	}
	pods, err := l.cfg.Pods(ctx)
	if err != nil {
		l.cfg.Log.Warn("eviction cannot see what pods use", "err", err)
		return
	}
	if limited {
		l.evictOverLimit(pods)
	}
	if v.Act == nil {
		return
	}
	victim := Choose(*v.Act, pods)
	if victim == nil {
		l.cfg.Log.Warn("the node is short of a resource and no pod may be evicted", "signal", v.Act.Threshold.Signal)
		return
	}
	l.cfg.Log.Warn("evicting a pod", "pod", victim.Pod.Namespace+"/"+victim.Pod.Name, "signal", v.Act.Threshold.Signal, "available", v.Act.Value.Available)
	l.cfg.Evict(victim.Pod, victim.Message, v.Act.Threshold.Grace == 0)
}

// evictOverLimit ends the pods that use more disk than they may.
func (l *Loop) evictOverLimit(pods []Pod) {
	for _, p := range pods {
		if why := OverLimit(p); why != "" && !pod.Critical(p.Pod) {
			l.cfg.Evict(p.Pod, why, true)
		}
	}
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

// freed removes unused images and reports whether that ended the shortage.
func (l *Loop) freed(ctx context.Context, s Shortage) bool {
	if l.cfg.FreeImages == nil {
		return false
	}
	bytes, err := l.cfg.FreeImages(ctx)
	if err != nil {
		l.cfg.Log.Warn("unused images could not all be removed", "err", err)
	}
	if bytes == 0 {
		return false
	}
	value, ok := l.cfg.Measure(ctx)[s.Threshold.Signal]
	return ok && value.Available >= s.Threshold.of(value.Capacity)+s.Threshold.Reclaim
}
