package controller

import (
	"context"
	"time"

	csitranslation "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/volume/attachdetach"
	"k8s.io/kubernetes/pkg/controller/volume/ephemeral"
	"k8s.io/kubernetes/pkg/controller/volume/expand"
	"k8s.io/kubernetes/pkg/controller/volume/persistentvolume"
	"k8s.io/kubernetes/pkg/controller/volume/pvcprotection"
	"k8s.io/kubernetes/pkg/controller/volume/pvprotection"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/csi"
	"k8s.io/kubernetes/pkg/volume/csimigration"
	"k8s.io/kubernetes/pkg/volume/fc"
	"k8s.io/kubernetes/pkg/volume/iscsi"
)

func claimProtection(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := pvcprotection.NewPVCProtectionController(klog.FromContext(ctx),
		e.Informers.Core().V1().PersistentVolumeClaims(), e.Informers.Core().V1().Pods(), e.client)
	if err != nil {
		return nil, err
	}
	return with(1, c.Run), nil
}

func volumeProtection(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := pvprotection.NewPVProtectionController(klog.FromContext(ctx), e.Informers.Core().V1().PersistentVolumes(), e.client)
	if err != nil {
		return nil, err
	}
	return with(1, c.Run), nil
}

func ephemeralVolumes(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := ephemeral.NewController(ctx, e.client, e.Informers.Core().V1().Pods(), e.Informers.Core().V1().PersistentVolumeClaims())
	if err != nil {
		return nil, err
	}
	return with(workers, c.Run), nil
}

// volumeBinder binds claims to volumes. It provisions and recycles none itself: that is for external provisioners.
func volumeBinder(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := persistentvolume.NewController(ctx, persistentvolume.ControllerParameters{
		KubeClient:                e.client,
		SyncPeriod:                15 * time.Second,
		VolumeInformer:            e.Informers.Core().V1().PersistentVolumes(),
		ClaimInformer:             e.Informers.Core().V1().PersistentVolumeClaims(),
		ClassInformer:             e.Informers.Storage().V1().StorageClasses(),
		PodInformer:               e.Informers.Core().V1().Pods(),
		NodeInformer:              e.Informers.Core().V1().Nodes(),
		EnableDynamicProvisioning: true,
	})
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

// attachDetach attaches the volumes of pods to their nodes, and detaches them when no pod needs them and the node has said that it
// does not use them any more, or has said nothing for six minutes. For drivers it writes VolumeAttachments, which their external
// attachers carry out. The older kinds need no work, but nodes wait for their volumes' names in the status all the same.
//
// It looks ten times a second what is to be done, at 2 ms of a processor each second; so it begins when there is something that can be
// attached, as it would begin on a server that has just become the leader.
func attachDetach(ctx context.Context, e *env) (func(context.Context), error) {
	var plugins []volume.VolumePlugin
	for _, some := range [][]volume.VolumePlugin{csi.ProbeVolumePlugins(), fc.ProbeVolumePlugins(), iscsi.ProbeVolumePlugins()} {
		plugins = append(plugins, some...)
	}
	core, storage := e.Informers.Core().V1(), e.Informers.Storage().V1()
	c, err := attachdetach.NewAttachDetachController(ctx, e.client, core.Pods(), core.Nodes(), core.PersistentVolumeClaims(), core.PersistentVolumes(),
		storage.CSINodes(), storage.CSIDrivers(), storage.VolumeAttachments(), plugins, nil, false, time.Minute, false, attachdetach.DefaultTimerConfig)
	if err != nil {
		return nil, err
	}
	needed, err := firstAttachable(e)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		if needed(ctx) {
			c.Run(ctx)
		}
	}, nil
}

// volumeExpander tells claims that grow that an external resizer has to see to it; no volume grows by itself.
func volumeExpander(ctx context.Context, e *env) (func(context.Context), error) {
	names := csitranslation.New()
	c, err := expand.NewExpandController(ctx, e.client, e.Informers.Core().V1().PersistentVolumeClaims(), nil, names, csimigration.NewPluginManager(names))
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}
