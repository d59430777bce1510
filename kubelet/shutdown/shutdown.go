// Package shutdown ends pods in order when the machine is shut down (KEP-2000, KEP-2712).
//
// A delay lock of logind keeps the machine up until it is released, for at most logind's InhibitDelayMaxSec:
//
//	up ──PrepareForShutdown(true)──► draining ──all groups done, or their time over──► drained: lock released
//	 ▲                                  │                                                │
//	 └────────PrepareForShutdown(false): the shutdown was called off: lock taken anew ◄──┘
//
// While draining and drained the node is not ready and takes in no pods. Pods end in groups, those of the lowest priority
// first; each group gets its own time, and the next begins as soon as all pods of the one before have ended. Which pod is
// in which group is decided by Groups, a pure function.
package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
)

// Words of upstream.
const (
	// ReasonRejected and MessageRejected are told of pods that come while the node shuts down.
	ReasonRejected  = "NodeShutdown"
	MessageRejected = "Pod was rejected as the node is shutting down."
	// Reason and Message are told of the pods that are ended.
	Reason  = "Terminated"
	Message = "Pod was terminated in response to imminent node shutdown."
)

// ErrShuttingDown is why the node is not ready.
var ErrShuttingDown = errors.New("node is shutting down")

// Logind is the part of systemd-logind that is needed.
type Logind interface {
	// Inhibit takes a delay lock on shutdown; closing it lets the machine go down.
	Inhibit(ctx context.Context) (io.Closer, error)
	// Delay is how long a lock holds at most.
	Delay(ctx context.Context) (time.Duration, error)
	// SetDelay asks for at least so much.
	SetDelay(ctx context.Context, d time.Duration) error
	// Watch sends true when a shutdown begins, and false when it is called off, until ctx ends; then it closes the channel.
	Watch(ctx context.Context) (<-chan bool, error)
}

// Group is the pods from a priority on, up to that of the next group.
type Group struct {
	Priority int32
	// Grace is what its pods get at most.
	Grace time.Duration
}

// Config of a Manager. All fields are required but Ended.
type Config struct {
	Logind Logind
	// Groups in any order.
	Groups []Group
	// Pods lists those that have not ended.
	Pods func() []*v1.Pod
	// End ends a pod within that time.
	End func(p *v1.Pod, grace time.Duration)
	// Changed is called when the node begins or ceases to shut down.
	Changed func(shutting bool)
	// Ended is called when all pods have ended, or had their time. Optional.
	Ended func()
	Log   *slog.Logger
}

// Manager watches for a shutdown and drains the node.
type Manager struct {
	cfg Config

	mu       sync.Mutex
	shutting bool
}

// New makes a manager.
func New(cfg Config) *Manager {
	cfg.Groups = slices.Clone(cfg.Groups)
	slices.SortFunc(cfg.Groups, func(a, b Group) int { return int(a.Priority) - int(b.Priority) })
	return &Manager{cfg: cfg}
}

// Shutting tells whether the node is shutting down.
func (m *Manager) Shutting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.shutting
}

func (m *Manager) set(shutting bool) {
	m.mu.Lock()
	changed := m.shutting != shutting
	m.shutting = shutting
	m.mu.Unlock()
	if changed {
		m.cfg.Log.Info("the machine is shutting down", "now", shutting)
		m.cfg.Changed(shutting)
	}
}

// again is kept before logind is asked again after an error.
const again = 5 * time.Second

// Run holds the lock and drains the node when told to, until ctx ends. When logind restarts, or fails, it begins anew.
func (m *Manager) Run(ctx context.Context) error {
	for {
		err := m.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		m.cfg.Log.Warn("no graceful shutdown for now: logind cannot be asked", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}

// total is the time that all groups need one after the other.
func total(groups []Group) time.Duration {
	var sum time.Duration
	for _, g := range groups {
		sum += g.Grace
	}
	return sum
}

// watch is one connection's worth of Run.
func (m *Manager) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	need := total(m.cfg.Groups)
	if have, err := m.cfg.Logind.Delay(ctx); err != nil {
		return err
	} else if have < need {
		if err := m.cfg.Logind.SetDelay(ctx, need); err != nil {
			return fmt.Errorf("raise InhibitDelayMaxSec from %v to %v: %w", have, need, err)
		}
		if have, err = m.cfg.Logind.Delay(ctx); err != nil || have < need {
			return errors.Join(fmt.Errorf("InhibitDelayMaxSec is %v, less than the %v that all pods may take", have, need), err)
		}
	}
	events, err := m.cfg.Logind.Watch(ctx)
	if err != nil {
		return err
	}
	lock, err := m.cfg.Logind.Inhibit(ctx)
	if err != nil {
		return err
	}
	d := &drain{Manager: m, lock: lock}
	defer d.stop()
	for down := range events {
		if err := d.turn(ctx, down); err != nil {
			return err
		}
	}
	return errors.New("logind has gone")
}

// drain is the state of one shutdown.
type drain struct {
	*Manager
	lock   io.Closer
	cancel context.CancelFunc // of the drain under way
	ended  chan struct{}
}

// turn begins a drain, or calls it off.
func (d *drain) turn(ctx context.Context, down bool) error {
	if down == d.Shutting() {
		return nil
	}
	if !down {
		d.halt()
		d.set(false)
		var err error
		d.lock, err = d.cfg.Logind.Inhibit(ctx)
		return err
	}
	d.set(true)
	ctx, d.cancel = context.WithCancel(ctx)
	d.ended = make(chan struct{})
	lock := d.lock
	go func() {
		defer close(d.ended)
		d.groups(ctx)
		if d.cfg.Ended != nil && ctx.Err() == nil {
			d.cfg.Ended()
		}
		if err := lock.Close(); err != nil {
			d.cfg.Log.Warn("the lock on the shutdown cannot be released", "err", err)
		}
	}()
	return nil
}

// halt ends a drain under way; the lock is released then.
func (d *drain) halt() {
	if d.cancel != nil {
		d.cancel()
		<-d.ended
		d.cancel = nil
	}
}

func (d *drain) stop() {
	if d.cancel == nil {
		_ = d.lock.Close() // the process gives it up anyway
	}
	d.halt()
	d.set(false)
}

// look is how often it is looked whether the pods of a group have ended.
const look = 100 * time.Millisecond

// groups ends the pods, group by group.
func (d *drain) groups(ctx context.Context) {
	for i, pods := range Groups(d.cfg.Pods(), d.cfg.Groups) {
		g := d.cfg.Groups[i]
		if len(pods) == 0 {
			continue
		}
		d.cfg.Log.Info("ending pods for the shutdown", "priority", g.Priority, "pods", len(pods), "grace", g.Grace)
		for _, p := range pods {
			d.cfg.End(p, grace(p, g.Grace))
		}
		if !d.await(ctx, pods, g.Grace) {
			return
		}
	}
}

// await waits until the pods have ended or their time is over, and tells whether to go on.
func (d *drain) await(ctx context.Context, pods []*v1.Pod, most time.Duration) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, most, errTime)
	defer cancel()
	for {
		left := d.cfg.Pods()
		if !slices.ContainsFunc(pods, func(p *v1.Pod) bool {
			return slices.ContainsFunc(left, func(l *v1.Pod) bool { return l.UID == p.UID })
		}) {
			return true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx) == errTime
		case <-time.After(look):
		}
	}
}

var errTime = errors.New("the time of the group is over")

// grace is the pod's own, at most that of its group.
func grace(p *v1.Pod, most time.Duration) time.Duration {
	if own := p.Spec.TerminationGracePeriodSeconds; own != nil {
		return min(time.Duration(*own)*time.Second, most)
	}
	return most
}

// Groups sorts pods into groups, which are in the order of their priorities: each pod belongs to the last group whose
// priority its own reaches; those below the first belong to the first.
func Groups(pods []*v1.Pod, groups []Group) [][]*v1.Pod {
	out := make([][]*v1.Pod, len(groups))
	for _, p := range pods {
		at := 0
		for i, g := range groups {
			if corev1.PodPriority(p) >= g.Priority {
				at = i
			}
		}
		if len(groups) > 0 {
			out[at] = append(out[at], p)
		}
	}
	return out
}
