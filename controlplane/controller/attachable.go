package controller

import (
	"context"
	"errors"
	"sync"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/cache"
)

// firstAttachable watches for the first sign of a volume that is, or may have to be, attached to a node. What it returns waits for that, and
// tells whether there is one; it does not watch any more then.
func firstAttachable(e *env) (wait func(context.Context) bool, err error) {
	seen, once := make(chan struct{}), sync.Once{}
	look := func(obj any) {
		if attachable(obj) {
			once.Do(func() { close(seen) })
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }}
	var off []func() error
	stop := func() (err error) {
		for _, f := range off {
			err = errors.Join(err, f())
		}
		return err
	}
	core := e.Informers.Core().V1()
	for _, i := range []cache.SharedIndexInformer{core.PersistentVolumes().Informer(), core.Pods().Informer(), core.Nodes().Informer(),
		e.Informers.Storage().V1().VolumeAttachments().Informer()} {
		r, err := i.AddEventHandler(handler)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		off = append(off, func() error { return i.RemoveEventHandler(r) })
	}
	return func(ctx context.Context) bool {
		defer func() { _ = stop() }() // of handlers that are on it cannot fail
		select {
		case <-seen:
			return true
		case <-ctx.Done():
			return false
		}
	}, nil
}

// attachable tells whether an object is a sign that there is something to attach or to detach. Claims are not looked at: a pod has its
// volume attached only once that is there. Volumes that are on the node or in the network as they are never need it.
func attachable(obj any) bool {
	switch o := obj.(type) {
	case *storagev1.VolumeAttachment:
		return true
	case *v1.Node:
		return len(o.Status.VolumesAttached)+len(o.Status.VolumesInUse) > 0
	case *v1.PersistentVolume:
		s := &o.Spec.PersistentVolumeSource
		return s.HostPath == nil && s.Local == nil && s.NFS == nil
	case *v1.Pod:
		for i := range o.Spec.Volumes {
			s := &o.Spec.Volumes[i].VolumeSource // those of the former in-tree kinds are attached by drivers
			if s.FC != nil || s.ISCSI != nil || s.AWSElasticBlockStore != nil || s.GCEPersistentDisk != nil || s.AzureDisk != nil ||
				s.Cinder != nil || s.VsphereVolume != nil || s.PortworxVolume != nil {
				return true
			}
		}
	}
	return false
}
