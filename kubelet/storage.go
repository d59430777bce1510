package kubelet

import (
	"context"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/claim"
	"github.com/skiff-node/skiff/kubelet/volume/csi"
	"github.com/skiff-node/skiff/kubelet/volume/kinds"
	"github.com/skiff-node/skiff/kubelet/volume/podcert"
	"github.com/skiff-node/skiff/kubelet/volume/projected"
	"github.com/skiff-node/skiff/kubelet/volume/token"
	"github.com/skiff-node/skiff/kubelet/volume/trust"
	"github.com/skiff-node/skiff/kubelet/worker"
)

// storage is the pods' volumes, with the CSI drivers that provide some of them.
type storage struct {
	*volume.Manager
	// Nil without an API server: claims, drivers' objects and inline volumes need one.
	csi     *csi.Kind
	drivers *csi.Drivers
	bundles *trust.Source
	certs   *podcert.Source
	tokens  *token.Source // of pods' service accounts
}

func (k *Kubelet) newVolumes() error {
	cfg := kinds.Config{Projected: projected.Config{Objects: k.reader(), Tokens: noObjects{}, Allocatable: k.allocatable}}
	vc := volume.Config{Root: k.cfg.RootDir, Period: k.cfg.Configuration.SyncFrequency.Duration,
		Metrics: k.metrics.Volumes, UsageAge: k.cfg.Configuration.VolumeStatsAggPeriod.Duration, Removed: k.facts.assigned.Release, Log: k.log}
	if k.client != nil {
		cfg.Projected.Tokens = k.volumes.tokens
		if err := k.volumes.newCSI(k, k.volumes.tokens); err != nil {
			return err
		}
		if err := k.volumes.newCertificates(k, &cfg.Projected); err != nil {
			return err
		}
		cfg.CSI = k.volumes.csi
		vc.Claims = claim.Finder{Client: k.client, Node: k.nodeObject}
	}
	vc.Kinds = kinds.All(cfg)
	var err error
	if k.volumes.Manager, err = volume.New(vc); err != nil {
		return err
	}
	return newPlugins(k)
}

// newCertificates makes what shows pods the certificates of the cluster, and gets them their own.
func (s *storage) newCertificates(k *Kubelet, cfg *projected.Config) error {
	var err error
	if s.bundles, err = trust.New(k.client, func() { changedBundles(k.pool, s.Manager) }); err != nil {
		return err
	}
	s.certs, err = podcert.New(podcert.Config{Client: k.client, Node: k.cfg.NodeName, NodeUID: k.nodeUID, Events: k.events, Log: k.log,
		Changed: func(uid types.UID) { k.pool.Retry(uid); s.Changed([]types.UID{uid}) }})
	if err == nil {
		k.metrics.PodCertificates(s.certs.Census)
	}
	cfg.Bundles, cfg.Certificates = s.bundles, s.certs
	return err
}

// newCSI makes what CSI volumes need: the drivers, which register by sockets in plugins_registry, and the kind.
func (s *storage) newCSI(k *Kubelet, tokens csi.Tokens) error {
	var err error
	s.drivers, err = csi.NewDrivers(csi.DriversConfig{Client: k.client, Node: k.cfg.NodeName, Dial: plugin.Dial, Log: k.log,
		Registered: func() { retryWithDrivers(k.pool) }})
	if err != nil {
		return err
	}
	inUseChanged := func() { // the node's status tells soon
		if k.node != nil {
			k.node.Wake()
		}
	}
	reported := func(name v1.UniqueVolumeName) error {
		if n := k.nodeObject(); n != nil {
			return csi.Safe(&n.Status, name)
		}
		return nil
	}
	s.csi, err = csi.New(csi.Config{Root: k.cfg.RootDir, Node: k.cfg.NodeName, Client: k.client, Drivers: s.drivers,
		Tokens: tokens, NoAttach: !*k.cfg.Configuration.EnableControllerAttachDetach, Events: k.events, InUseChanged: inUseChanged, Reported: reported, Log: k.log})
	if err != nil {
		return err
	}
	return nil
}

// newPlugins makes what finds plugins by their sockets and introduces them to the parts that use them.
func newPlugins(k *Kubelet) error {
	handlers := map[string]plugin.Handler{registerapi.DevicePlugin: k.facts.assigned.Devices()}
	if k.volumes.drivers != nil {
		handlers[registerapi.CSIPlugin], handlers[registerapi.DRAPlugin] = k.volumes.drivers, k.facts.claims.Drivers
	}
	w, err := plugin.New(plugin.Config{Dir: filepath.Join(k.cfg.RootDir, "plugins_registry"), Log: k.log, Handlers: handlers})
	if err != nil {
		return err
	}
	k.loops["plugins"] = w.Run
	return nil
}

// retryWithDrivers lets the pods that may have waited for a driver try again at once.
func retryWithDrivers(pool *worker.Pool) {
	needs := func(v v1.Volume) bool {
		return v.CSI != nil || v.PersistentVolumeClaim != nil || v.Ephemeral != nil || claim.Migrated(&v.VolumeSource)
	}
	for _, p := range pool.Pods() {
		if slices.ContainsFunc(p.Spec.Volumes, needs) {
			pool.Retry(p.UID)
		}
	}
}

// changedBundles lets the pods that show trust bundles look again, whether they have their volumes or wait for them.
func changedBundles(pool *worker.Pool, volumes *volume.Manager) {
	shows := func(v v1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s v1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	}
	var uids []types.UID
	for _, p := range pool.Pods() {
		if slices.ContainsFunc(p.Spec.Volumes, shows) {
			pool.Retry(p.UID)
			uids = append(uids, p.UID)
		}
	}
	volumes.Changed(uids)
}

// inUse lists the volumes that the cluster must not detach from this node.
func (s *storage) inUse() []v1.UniqueVolumeName {
	if s.csi == nil {
		return nil
	}
	return s.csi.InUse()
}

// run keeps volumes current, and the drivers known.
func (s *storage) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(ctx) })
	if s.csi != nil {
		group.Go(func() error { return s.drivers.Run(ctx) })
		group.Go(func() error { return s.bundles.Run(ctx) })
		group.Go(func() error { return s.certs.Run(ctx) })
	}
	return group.Wait()
}
