package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/metrics"
)

// refreshTime bounds one look at the live volumes of a pod, parallelLooks how many pods are looked at at once.
const (
	refreshTime   = 30 * time.Second
	parallelLooks = 10
)

// Config is what a Manager needs.
type Config struct {
	// Root is the kubelet's directory, /var/lib/skiff/kubelet on a node.
	Root string
	// Kinds are asked in order.
	Kinds []Kind
	// Claims answers for persistentVolumeClaim and ephemeral volumes. Nil refuses them: there is no API server.
	Claims Claims
	// Period is how often the content of live volumes is checked; 0 means 60 s, upstream's sync frequency.
	Period time.Duration
	// UsageAge is how old an answer of Usage may be; 0 means 60 s, upstream's volumeStatsAggPeriod.
	UsageAge time.Duration
	// Metrics count the work on volumes. May be nil.
	Metrics *metrics.Volumes
	// Removed is told when a pod's directory is gone, with what others had noted in it. May be nil.
	Removed func(uid types.UID)
	// Log receives failures of refreshes. May be nil.
	Log *slog.Logger
}

// Manager sets up and takes down the volumes of pods. It is safe for concurrent use; calls for one pod wait for each
// other, those for different pods do not.
type Manager struct {
	cfg  Config
	wake chan struct{} // capacity 1

	mu    sync.Mutex
	pods  map[types.UID]*podState
	dirty map[types.UID]bool // pods whose live volumes are to be looked at soon
}

// podState is what is remembered of a pod. busy is held, by sending to it, while its volumes are worked on.
type podState struct {
	busy chan struct{}
	pod  *v1.Pod // the latest version that was set up; nil when nothing is to be refreshed
	// claims are those found so far, by the name of the pod's volume. A container that is started again needs no API
	// server for them. Guarded by busy.
	claims map[string]*Claimed
	placed map[string]placed // by the name of the pod's volume; guarded by the manager's mutex
	usage  usage
	// inherited says that the volumes were set up by a former kubelet and that this one has not yet gone through all of them.
	// Guarded by busy.
	inherited bool
}

func newState() *podState {
	return &podState{busy: make(chan struct{}, 1), claims: map[string]*Claimed{}, placed: map[string]placed{}}
}

// New returns a manager of the pods below cfg.Root, which need not exist yet.
func New(cfg Config) (*Manager, error) {
	if !filepath.IsAbs(cfg.Root) {
		return nil, fmt.Errorf("volume: Root %q must be an absolute path", cfg.Root)
	}
	if cfg.Period == 0 {
		cfg.Period = time.Minute
	}
	if cfg.UsageAge == 0 {
		cfg.UsageAge = time.Minute
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewKubelet().Volumes
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{cfg: cfg, wake: make(chan struct{}, 1),
		pods: map[types.UID]*podState{}, dirty: map[types.UID]bool{}}, nil
}

// PodDir is the directory of all that belongs to the pod.
func (m *Manager) PodDir(uid types.UID) string { return filepath.Join(m.cfg.Root, "pods", string(uid)) }

// Dir is the directory of a volume of that kind.
func (m *Manager) Dir(uid types.UID, kind, volume string) string {
	return filepath.Join(m.PodDir(uid), "volumes", "kubernetes.io~"+kind, volume)
}

// Setup makes each volume of the pod that needs anything made and returns their places by volume name. Image
// volumes are left out: the runtime mounts them. All failures are returned together, each a *SetupError; see Failures.
func (m *Manager) Setup(ctx context.Context, pod *v1.Pod) (map[string]Place, error) {
	if err := validUID(pod.UID); err != nil {
		return nil, err
	}
	state, err := m.acquire(ctx, pod.UID)
	if err != nil {
		return nil, err
	}
	defer m.release(state)
	m.mu.Lock()
	state.pod = pod
	m.mu.Unlock()
	s := &setup{Manager: m, pod: pod, state: state}
	return s.all(ctx, false)
}

// Update takes in a newer version of a pod whose volumes are set up. Its live volumes are looked at soon when its labels or
// annotations changed, which is all that they can show of it; and when a former kubelet set them up, for their tokens expire
// whoever does not start again.
func (m *Manager) Update(pod *v1.Pod) {
	m.mu.Lock()
	s, same := m.pods[pod.UID], false
	switch {
	case s == nil && m.left(pod.UID):
		s = newState()
		s.inherited = true
		m.pods[pod.UID] = s
	case s == nil || s.pod == nil:
		m.mu.Unlock()
		return
	default:
		same = maps.Equal(s.pod.Labels, pod.Labels) && maps.Equal(s.pod.Annotations, pod.Annotations)
	}
	s.pod = pod
	m.mu.Unlock()
	if !same {
		m.Changed([]types.UID{pod.UID})
	}
}

// left reports whether volumes of the pod are there, though this manager has set up none.
func (m *Manager) left(uid types.UID) bool {
	if validUID(uid) != nil {
		return false
	}
	_, err := os.Stat(filepath.Join(m.PodDir(uid), "volumes"))
	return err == nil
}

// Changed asks for a look at the live volumes of these pods soon. Pods without volumes are ignored.
func (m *Manager) Changed(pods []types.UID) {
	m.mu.Lock()
	for _, uid := range pods {
		if m.pods[uid] != nil {
			m.dirty[uid] = true
		}
	}
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run keeps the content of live volumes current until ctx ends. Pods are looked at beside each other: one whose CSI driver
// hangs delays no other's Secret.
func (m *Manager) Run(ctx context.Context) error {
	var looks sync.WaitGroup
	defer looks.Wait()
	slots := make(chan struct{}, parallelLooks)
	beat := time.NewTicker(m.cfg.Period)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			m.markAll()
		case <-m.wake:
		}
		for _, uid := range m.takeDirty() {
			slots <- struct{}{}
			looks.Go(func() {
				defer func() { <-slots }()
				if err := m.refresh(ctx, uid); err != nil && ctx.Err() == nil {
					m.cfg.Log.Warn("content of a pod's volumes could not be brought up to date", "podUID", uid, "err", err)
				}
			})
		}
	}
}

func (m *Manager) markAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, s := range m.pods {
		if s.pod != nil {
			m.dirty[uid] = true
		}
	}
}

func (m *Manager) takeDirty() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	uids := make([]types.UID, 0, len(m.dirty))
	for uid := range m.dirty {
		uids = append(uids, uid)
	}
	clear(m.dirty)
	return uids
}

func (m *Manager) refresh(ctx context.Context, uid types.UID) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	m.mu.Lock()
	known := m.pods[uid] != nil
	m.mu.Unlock()
	if !known {
		return nil
	}
	state, err := m.acquire(ctx, uid)
	if err != nil {
		return err
	}
	defer m.release(state)
	m.mu.Lock()
	pod := state.pod
	m.mu.Unlock()
	if pod == nil {
		return nil
	}
	s := &setup{Manager: m, pod: pod, state: state}
	if _, err = s.all(ctx, !state.inherited); err == nil {
		state.inherited = false
	}
	return err
}

// Teardown unmounts and removes everything below the pod's directory, and the directory. The pod's containers must be
// gone. A pod without a directory is no error.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error {
	if err := validUID(uid); err != nil {
		return err
	}
	state, err := m.acquire(ctx, uid)
	if err != nil {
		return err
	}
	defer m.release(state)
	began := time.Now()
	m.mu.Lock()
	state.pod = nil
	gone := slices.Collect(maps.Values(state.placed))
	m.mu.Unlock()
	for _, k := range m.cfg.Kinds {
		if r, ok := k.(Releaser); ok {
			if err := r.Release(ctx, uid, filepath.Dir(m.Dir(uid, k.Name(), "any"))); err != nil {
				return fmt.Errorf("tear down the volumes of pod %s: %w", uid, err)
			}
		}
	}
	if err := remove(m.PodDir(uid)); err != nil {
		return fmt.Errorf("tear down the volumes of pod %s: %w", uid, err)
	}
	if m.cfg.Removed != nil {
		m.cfg.Removed(uid)
	}
	for _, k := range m.cfg.Kinds {
		if f, ok := k.(Forgetter); ok {
			f.Forget(string(uid))
		}
	}
	m.mu.Lock()
	delete(m.pods, uid)
	delete(m.dirty, uid)
	m.mu.Unlock()
	for _, p := range gone {
		m.cfg.Metrics.Operated("volume_unmount", Plugin(p.kind), time.Since(began), nil)
	}
	return nil
}

// Retain tears down the directories of all pods but those that there are, by has, when it is their turn.
func (m *Manager) Retain(ctx context.Context, has func(types.UID) bool) error {
	entries, err := os.ReadDir(filepath.Join(m.cfg.Root, "pods"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for the volumes of former pods: %w", err)
	}
	var failed []error
	cleaned := 0
	for _, e := range entries {
		uid := types.UID(e.Name())
		if has(uid) {
			continue
		}
		if err := m.Teardown(ctx, uid); err != nil {
			failed = append(failed, err)
		} else {
			cleaned++
		}
	}
	m.cfg.Metrics.Swept(cleaned, len(failed))
	return errors.Join(failed...)
}

// acquire waits for the turn to work on the pod's volumes.
func (m *Manager) acquire(ctx context.Context, uid types.UID) (*podState, error) {
	for {
		m.mu.Lock()
		s := m.pods[uid]
		if s == nil {
			s = newState()
			m.pods[uid] = s
		}
		m.mu.Unlock()
		select {
		case s.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for other work on the volumes of pod %s: %w", uid, ctx.Err())
		}
		m.mu.Lock()
		current := m.pods[uid] == s
		m.mu.Unlock()
		if current {
			return s, nil
		}
		<-s.busy // a Teardown finished while this call waited: begin with a new state
	}
}

func (m *Manager) release(s *podState) { <-s.busy }

// validUID keeps a malformed UID from naming a directory outside the pod's own.
func validUID(uid types.UID) error {
	if uid == "" || uid == "." || uid == ".." || strings.ContainsRune(string(uid), '/') {
		return fmt.Errorf("pod UID %q cannot name a directory", uid)
	}
	return nil
}
