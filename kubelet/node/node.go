// Package node is the node's side of its Node object: it registers the node, keeps the object's status and the node's
// lease current, and follows what the cluster decides about the node (its pod ranges).
//
// # What is written, and when
//
// The status is computed whole, by a pure function (Compute), from the object as it is, the machine's facts and what was
// just observed. It is sent as a patch when it differs from the object by more than heartbeat times, and every
// ReportPeriod otherwise. It is computed every Period, and at once when somebody knows better (Wake): a change of
// readiness is in the cluster within milliseconds.
//
// A lease renewed every 10 s, good for 40 s, says "alive" cheaply; the status's heartbeat times say it again every
// ReportPeriod. The node life cycle controller believes the fresher of the two.
//
// # Start
//
//	observe the runtime → create the Node, status included → lease, watch of the own Node
//	the watch shows podCIDRs → PodCIDRs callback (CRI UpdateRuntimeConfig) → observe again → Ready
//
// Nothing in it polls, unless the runtime stays unready: then it is asked again after 50 ms, 100 ms, … up to Period.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	nodeutil "k8s.io/component-helpers/node/util"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/metrics"
)

// Identity is what the node is called and how it introduces itself when it registers.
type Identity struct {
	// Name is the Node's name. Hostname is its address of type Hostname; the name when empty.
	Name, Hostname string
	// IPs are the node's addresses, the preferred one first; empty means the address of the default route.
	IPs []string
	// Labels are added to the standard ones. Taints are set when the node registers for the first time.
	Labels     map[string]string
	Taints     []v1.Taint
	ProviderID string
	// ExternalCloud says that a cloud controller manager initialises the node and knows its addresses; GivenIPs are those
	// that the operator named, which it is told of.
	ExternalCloud bool
	GivenIPs      []string
	// Unschedulable registers the node as cordoned.
	Unschedulable bool
	// Unattached tells the cluster not to attach volumes to the node (enableControllerAttachDetach: false).
	Unattached bool
	// Port is that of the kubelet's HTTPS server.
	Port int32
	// KubeletVersion is reported as nodeInfo.kubeletVersion, e.g. "v1.37.2".
	KubeletVersion string
}

// Capacity is how much of the machine pods may have.
type Capacity struct {
	// MaxPods is the most pods of the node; 0 means 110.
	MaxPods int64
	// Root is a directory on the file system that counts as ephemeral storage.
	Root string
	// NoStorage leaves ephemeral storage out of what the node has: it cannot be measured, or is not to be counted.
	NoStorage bool
	// Reserved returns what is kept from pods out of the given capacity: for the system, for the kubelet, and up to the
	// hard eviction thresholds. May be nil.
	Reserved func(capacity v1.ResourceList) v1.ResourceList
	// Devices returns what device plugins offer. May be nil.
	Devices func() (capacity, allocatable v1.ResourceList)
	// Anew tells that nothing is known of what device plugins ever offered here: the machine was made anew, under the name of one that
	// was before. May be nil.
	Anew func() bool
}

// Pressure says of which resources the node is short.
type Pressure struct{ Memory, Disk, PID bool }

// Config is what a Manager needs.
type Config struct {
	Client   kubernetes.Interface
	Identity Identity
	Capacity Capacity
	// Runtime and Images are the container runtime.
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	// MaxImages is how many images the status lists at most; negative means all.
	MaxImages int
	// PodCIDRs is told the node's pod ranges once they are known and when they change; it is called again later
	// when it fails. May be nil.
	PodCIDRs func(ctx context.Context, cidrs []string) error
	// Problems returns what else keeps the node from being ready, such as a shutdown. May be nil.
	Problems func() []error
	// Pressure is what the eviction manager found. May be nil.
	Pressure func() Pressure
	// VolumesInUse lists the volumes that must not be detached from the node. May be nil.
	VolumesInUse func() []v1.UniqueVolumeName
	// Metrics is told how far the node has come. May be nil.
	Metrics *metrics.Node
	// Event records an event about the node. May be nil.
	Event func(eventType, reason, message string)
	// Period is how often the status is computed, ReportPeriod how often it is sent even if nothing changed; 0 means 10 s
	// and 5 min.
	Period, ReportPeriod time.Duration
	// LeaseSeconds is how long the node counts as alive after a renewal; 0 means 40. It renews four times as often.
	LeaseSeconds int32
	// Log may be nil.
	Log *slog.Logger
}

// Manager keeps one Node. Run does the work; the other methods may be called at any time.
type Manager struct {
	cfg   Config
	facts Facts
	wake  chan struct{} // capacity 1

	node       atomic.Pointer[v1.Node] // as last seen from the API; nil before registration
	registered chan struct{}           // closed after registration
	once       sync.Once

	// The rest belongs to Run's goroutine.
	reported time.Time // when the status was sent last
	applied  []string  // the pod ranges that PodCIDRs took
	pause    time.Duration
}

// New reads the machine's facts and checks the configuration.
func New(cfg Config) (*Manager, error) {
	if cfg.Client == nil || cfg.Runtime == nil || cfg.Images == nil {
		return nil, errors.New("node: Client, Runtime and Images are required")
	}
	if cfg.Identity.Name == "" {
		return nil, errors.New("node: Identity.Name is required")
	}
	defaults(&cfg)
	facts, err := ReadFacts(cfg.Capacity.Root)
	if err != nil {
		return nil, fmt.Errorf("read the facts of this machine: %w", err)
	}
	if len(cfg.Identity.IPs) == 0 {
		cfg.Identity.IPs = []string{facts.DefaultIP}
	}
	return &Manager{cfg: cfg, facts: facts, wake: make(chan struct{}, 1), registered: make(chan struct{})}, nil
}

func defaults(cfg *Config) {
	if cfg.Identity.Hostname == "" {
		cfg.Identity.Hostname = cfg.Identity.Name
	}
	if cfg.Capacity.MaxPods == 0 {
		cfg.Capacity.MaxPods = 110
	}
	if cfg.Capacity.Root == "" {
		cfg.Capacity.Root = "/"
	}
	if cfg.Capacity.Reserved == nil {
		cfg.Capacity.Reserved = func(v1.ResourceList) v1.ResourceList { return nil }
	}
	if cfg.Capacity.Anew == nil {
		cfg.Capacity.Anew = func() bool { return false }
	}
	if cfg.Problems == nil {
		cfg.Problems = func() []error { return nil }
	}
	if cfg.Pressure == nil {
		cfg.Pressure = func() Pressure { return Pressure{} }
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewKubelet().Node
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string, string) {}
	}
	if cfg.Period == 0 {
		cfg.Period = 10 * time.Second
	}
	if cfg.ReportPeriod == 0 {
		cfg.ReportPeriod = 5 * time.Minute
	}
	if cfg.LeaseSeconds == 0 {
		cfg.LeaseSeconds = 40
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

// Wake makes Run look at the status now.
func (m *Manager) Wake() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Node is the node as last seen from the API, or nil before it is registered. It must not be changed.
func (m *Manager) Node() *v1.Node { return m.node.Load() }

// Registered is closed once the Node exists.
func (m *Manager) Registered() <-chan struct{} { return m.registered }

// IPs are the addresses the node reports, the preferred one first.
func (m *Manager) IPs() []string { return m.cfg.Identity.IPs }

// Allocatable is what pods may have, known before registration.
func (m *Manager) Allocatable() v1.ResourceList {
	_, allocatable := resources(m.cfg.Capacity, m.facts)
	return allocatable
}

// Run registers the node and keeps its object current until ctx ends. It returns nil then.
func (m *Manager) Run(ctx context.Context) error {
	if !m.register(ctx) {
		return nil
	}
	m.once.Do(func() { close(m.registered) })
	m.cfg.Event(v1.EventTypeNormal, "Starting", "Starting kubelet.")
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { m.renewLease(ctx) })
	group.Go(func() { m.watch(ctx) })
	for ctx.Err() == nil {
		wait := m.sync(ctx)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// sync hands on new pod ranges, then sends the status if it is due. It returns when to look again.
func (m *Manager) sync(ctx context.Context) time.Duration {
	if err := m.handOn(ctx); err != nil && ctx.Err() == nil {
		m.cfg.Log.Warn("the runtime did not take the node's pod ranges; trying again", "err", err)
		return m.soon()
	}
	old := m.node.Load()
	seen := m.observe(ctx)
	if ctx.Err() != nil {
		return 0
	}
	now := time.Now()
	next := old.DeepCopy()
	next.Status = Compute(old.Status, m.cfg.Identity, m.facts, seen, now)
	if !changed(old.Status, next.Status) && now.Sub(m.reported) < m.cfg.ReportPeriod {
		return m.waitFor(next)
	}
	got, _, err := nodeutil.PatchNodeStatus(m.cfg.Client.CoreV1(), types.NodeName(next.Name), old, next)
	if err != nil {
		m.cfg.Log.Warn("the node's status could not be sent; trying again", "err", err)
		return m.soon()
	}
	m.node.CompareAndSwap(old, got) // the watch may already have a newer one
	m.reported = now
	m.announce(old, next)
	return m.waitFor(next)
}

// waitFor is the time until the next look: soon while the node is not ready, for nobody may tell when the runtime is.
func (m *Manager) waitFor(n *v1.Node) time.Duration {
	if c := condition(n.Status.Conditions, v1.NodeReady); c != nil && c.Status == v1.ConditionTrue {
		m.pause = 0
		return m.cfg.Period
	}
	return m.soon()
}

func (m *Manager) soon() time.Duration {
	m.pause = min(max(2*m.pause, 50*time.Millisecond), m.cfg.Period)
	return m.pause
}
