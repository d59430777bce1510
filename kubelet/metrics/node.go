package metrics

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// Node tells how long the node took to be of use, from the boot of the machine on; node.Config takes it.
type Node struct {
	set                             *Set
	boot, began                     time.Time
	before, registering, after, all *Gauge
	preKubelet                      *Gauge
	shutdownBegan, shutdownEnded    *Gauge
	mu                              sync.Mutex
	tried, registered, ready        time.Time
}

func newNode(s *Set) *Node {
	n := &Node{set: s, began: time.Now(), boot: booted(time.Now()),
		preKubelet:  s.Gauge("kubelet_node_startup_pre_kubelet_duration_seconds", "[ALPHA] Duration in seconds of node startup before kubelet starts."),
		before:      s.Gauge("kubelet_node_startup_pre_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup before registration."),
		registering: s.Gauge("kubelet_node_startup_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup during registration."),
		after:       s.Gauge("kubelet_node_startup_post_registration_duration_seconds", "[ALPHA] Duration in seconds of node startup after registration."),
		all:         s.Gauge("kubelet_node_startup_duration_seconds", "[ALPHA] Duration in seconds of node startup in total."),
		shutdownBegan: s.Gauge("kubelet_graceful_shutdown_start_time_seconds",
			"[ALPHA] Last graceful shutdown start time since unix epoch in seconds"),
		shutdownEnded: s.Gauge("kubelet_graceful_shutdown_end_time_seconds",
			"[ALPHA] Last graceful shutdown end time since unix epoch in seconds"),
	}
	for _, g := range []*Gauge{n.preKubelet, n.before, n.registering, n.after, n.all, n.shutdownBegan, n.shutdownEnded} {
		g.Set(0)
	}
	return n
}

// booted is when the machine was started; zero when the kernel does not tell.
func booted(now time.Time) time.Time {
	raw, err := os.ReadFile("/proc/uptime")
	var up float64
	if _, scan := fmt.Sscan(string(raw), &up); err != nil || scan != nil {
		return time.Time{}
	}
	return now.Add(-time.Duration(up * float64(time.Second)))
}

// Groups tells which version of control groups there is, and lets be read how much memory they protect.
func (n *Node) Groups(version int, protected func() (guaranteed, burstable int64)) {
	n.set.Gauge("kubelet_cgroup_version", "[ALPHA] cgroup version on the hosts.").Set(float64(version))
	n.set.Read("kubelet_memory_qos_node_memory_min_bytes", "[ALPHA] Total memory.min protection of the node's pods, in bytes. Only with cgroup v2 and memoryReservationPolicy TieredReservation.",
		func(emit Emit) { guaranteed, _ := protected(); emit(float64(guaranteed)) })
	n.set.Read("kubelet_memory_qos_node_memory_low_bytes", "[ALPHA] Total memory.low protection of the node's pods, in bytes. Only with cgroup v2 and memoryReservationPolicy TieredReservation.",
		func(emit Emit) { _, burstable := protected(); emit(float64(burstable)) })
}

// Registering tells that the node tries to register.
func (n *Node) Registering() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tried.IsZero() {
		n.tried = time.Now()
	}
}

// Registered tells that a new node was registered. It is not told of one that there was already.
func (n *Node) Registered() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tried.IsZero() || !n.registered.IsZero() {
		return
	}
	n.registered = time.Now()
	if !n.boot.IsZero() {
		n.preKubelet.Set(n.began.Sub(n.boot).Seconds())
	}
	n.before.Set(n.tried.Sub(n.began).Seconds())
	n.registering.Set(n.registered.Sub(n.tried).Seconds())
}

// Ready tells that the node has become Ready.
func (n *Node) Ready() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.registered.IsZero() || !n.ready.IsZero() {
		return
	}
	n.ready = time.Now()
	n.after.Set(n.ready.Sub(n.registered).Seconds())
	if !n.boot.IsZero() {
		n.all.Set(n.ready.Sub(n.boot).Seconds())
	}
}

// ShuttingDown tells that a shutdown of the machine begins to end pods, or has ended them.
func (n *Node) ShuttingDown(begins bool) {
	now := float64(time.Now().Unix())
	if begins {
		n.shutdownBegan.Set(now)
	} else {
		n.shutdownEnded.Set(now)
	}
}
