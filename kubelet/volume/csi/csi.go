// Package csi is the volume kind for volumes that a CSI driver provides: persistent volumes, and inline volumes of a pod.
//
// # A volume's way
//
// The driver is a program of its own, mostly a pod of a DaemonSet, that registers a socket (package kubelet/plugin). Its
// CSIDriver object in the API tells what it wants. For each volume of a pod:
//
//	attached   wait until the cluster has attached the volume to the node (VolumeAttachment), if the driver needs that
//	staged     NodeStageVolume: once per node, at <root>/plugins/kubernetes.io/csi/<driver>/<hash>/globalmount
//	published  NodePublishVolume: once per pod, at <pod>/volumes/kubernetes.io~csi/<volume>/mount
//	grown      NodeExpandVolume, if the claim's volume has become larger than the claim says it is
//
// and back: unpublished, then unstaged once no pod of the node has the volume, then no longer told as in use, upon which the
// cluster detaches it.
//
// # What survives a crash
//
// Before the driver is asked for anything, vol_data.json below the pod's directory says of which driver and volume it
// will be asked; beside the staging directory lies another. Both are upstream's files, so a node can change kubelets. They
// go last. Whatever moment the kubelet dies at, what the driver may hold is on disk; taking it down again is what CSI
// calls idempotent. A step that is known to be complete is marked with the id of this boot, and is not repeated: a
// restarted kubelet asks the driver for nothing, one on a rebooted node for everything.
//
// Which pods have a volume is not counted, but read from those files, under a lock per volume.
//
// # Names
//
// A volume is told apart by driver and handle; one handle may be behind several persistent volumes.
package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/selinux"
)

// Tokens gets service account tokens for drivers that ask for them; volume/token implements it.
type Tokens interface {
	Request(ctx context.Context, pod *v1.Pod, want *v1.ServiceAccountTokenProjection) (authv1.TokenRequestStatus, error)
}

// Events records events of pods.
type Events interface {
	Normal(p *v1.Pod, container, reason, format string, args ...any)
	Warning(p *v1.Pod, container, reason, format string, args ...any)
}

// Config of a Kind. Fields that are not marked optional are required.
type Config struct {
	// Root is the kubelet's directory.
	Root string
	// Node is the node's name.
	Node   string
	Client kubernetes.Interface
	// Drivers are those registered on this node.
	Drivers *Drivers
	Tokens  Tokens
	// Events tells of growth; optional.
	Events Events
	// Labels is what the machine knows of SELinux; optional.
	Labels selinux.Labels
	// NoAttach says that the cluster does not attach volumes to this node. No kubelet does it itself, so pods cannot have those that
	// have to be attached.
	NoAttach bool
	// InUseChanged is told when the answer of InUse has changed; optional.
	InUseChanged func()
	// Reported returns nil once the volume is safe from being detached; see Safe. Optional. Nothing is staged before.
	Reported func(v1.UniqueVolumeName) error
	Log      *slog.Logger // optional
}

// Kind sets up CSI volumes.
type Kind struct {
	cfg     Config
	journal *journal
	boot    string

	mu    sync.Mutex
	locks map[identity]*lock // of the volumes that are being worked on
	used  map[identity]int   // how many pods have each volume
}

// identity tells a volume from any other of the node.
type identity struct{ driver, handle string }

// unique is the volume's name in node.status.volumesInUse.
func (i identity) unique() v1.UniqueVolumeName {
	return v1.UniqueVolumeName("kubernetes.io/csi/" + i.driver + "^" + i.handle)
}

// lock is held, by sending to it, while a volume is worked on.
type lock struct {
	turn  chan struct{}
	users int
}

// New returns the kind and reads what a former kubelet left set up.
func New(cfg Config) (*Kind, error) {
	if !filepath.IsAbs(cfg.Root) || cfg.Node == "" || cfg.Client == nil || cfg.Drivers == nil || cfg.Tokens == nil {
		return nil, errors.New("csi: Root (absolute), Node, Client, Drivers and Tokens are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Labels == nil {
		cfg.Labels = selinux.Host{}
	}
	if cfg.InUseChanged == nil {
		cfg.InUseChanged = func() {}
	}
	if cfg.Reported == nil {
		cfg.Reported = func(v1.UniqueVolumeName) error { return nil }
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	k := &Kind{cfg: cfg, journal: &journal{root: cfg.Root}, boot: boot, locks: map[identity]*lock{}, used: map[identity]int{}}
	all, err := k.journal.all()
	if err != nil {
		return nil, fmt.Errorf("read which CSI volumes are in use: %w", err)
	}
	for _, e := range all {
		if e.Persistent() {
			k.used[e.identity()]++
		}
	}
	return k, nil
}

// Name implements volume.Kind.
func (k *Kind) Name() string { return "csi" }

// Handles implements volume.Kind.
func (k *Kind) Handles(src *v1.VolumeSource) bool { return src.CSI != nil }

// HandlesPersistent implements volume.Persistent.
func (k *Kind) HandlesPersistent(src *v1.PersistentVolumeSource) bool { return src.CSI != nil }

// Live implements volume.Live: volumes grow, and some drivers want to be asked again and again (requiresRepublish).
func (k *Kind) Live() {}

// Slow implements volume.Slow.
func (k *Kind) Slow() {}

// InUse lists the persistent volumes that pods of this node have, for node.status.volumesInUse: the cluster does not detach
// them.
func (k *Kind) InUse() []v1.UniqueVolumeName {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []v1.UniqueVolumeName
	for id := range k.used {
		list = append(list, id.unique())
	}
	return list
}

func (k *Kind) use(id identity, change int) {
	k.mu.Lock()
	before := len(k.used)
	k.used[id] += change
	if k.used[id] <= 0 {
		delete(k.used, id)
	}
	changed := len(k.used) != before
	k.mu.Unlock()
	if changed {
		k.cfg.InUseChanged()
	}
}

// lock waits for the turn to work on a volume; unlock gives it on.
func (k *Kind) lock(ctx context.Context, id identity) (unlock func(), err error) {
	k.mu.Lock()
	l := k.locks[id]
	if l == nil {
		l = &lock{turn: make(chan struct{}, 1)}
		k.locks[id] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, id)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("wait for other work on volume %s of driver %s: %w", id.handle, id.driver, ctx.Err())
	}
}

// operationTime bounds a call to a driver, as upstream's csiTimeout.
const operationTime = 2 * time.Minute

// Setup implements volume.Kind.
func (k *Kind) Setup(ctx context.Context, req volume.Request) (volume.Place, error) {
	v, err := describe(req)
	if err != nil {
		return volume.Place{}, err
	}
	unlock, err := k.lock(ctx, v.identity())
	if err != nil {
		return volume.Place{}, err
	}
	defer unlock()
	s := &setup{Kind: k, req: req, vol: v, entry: k.journal.load(req.Dir)}
	return s.run(ctx)
}
