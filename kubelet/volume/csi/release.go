package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/volume"
)

// Release implements volume.Releaser: it takes every volume of the pod back from its driver. Volumes go beside each other.
func (k *Kind) Release(ctx context.Context, pod types.UID, dir string) error {
	entries, err := k.journal.of(string(pod), dir)
	if err != nil {
		return fmt.Errorf("read which CSI volumes the pod has: %w", err)
	}
	failed := make([]error, len(entries))
	var all sync.WaitGroup
	for i := range entries {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := k.release(ctx, &entries[i]); err != nil {
				failed[i] = &volume.SetupError{Volume: entries[i].Name, Step: "UnmountVolume.TearDown", Err: err}
			}
		}()
	}
	all.Wait()
	return errors.Join(failed...)
}

// release takes one volume of one pod back: published, staged, noted, in the reverse order of setting up.
func (k *Kind) release(ctx context.Context, e *noted) error {
	unlock, err := k.lock(ctx, e.identity())
	if err != nil {
		return err
	}
	defer unlock()
	d, err := k.cfg.Drivers.get(e.Driver)
	if err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: %w", err)
	}
	if err := k.reopen(e.dir); err != nil {
		return err
	}
	target := k.journal.target(e.dir, e.pod, &e.entry)
	err = d.call(ctx, func(ctx context.Context) error {
		_, err := d.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: e.Handle, TargetPath: target})
		return err
	})
	if err != nil {
		return err
	}
	if err := removeTarget(target); err != nil {
		return err
	}
	if e.block() {
		_ = os.Remove(filepath.Dir(target)) // unless another pod has the device
	}
	if e.Persistent() {
		if err := k.unstage(ctx, d, e); err != nil {
			return err
		}
	}
	if err := forget(e.dir); err != nil {
		return err
	}
	if e.Persistent() {
		k.use(e.identity(), -1)
	}
	return nil
}

// unstage takes the volume off the node if this pod was the last to have it.
func (k *Kind) unstage(ctx context.Context, d *driver, e *noted) error {
	others, err := k.journal.others(e.identity(), e.pod)
	if err != nil || len(others) > 0 {
		return err
	}
	path, dir := k.journal.staging(&e.entry)
	if _, err := os.Stat(filepath.Join(dir, dataFile)); errors.Is(err, fs.ErrNotExist) {
		return nil // never staged: there is always an entry before the driver is asked
	}
	if err := k.reopen(dir); err != nil {
		return err
	}
	err = d.call(ctx, func(ctx context.Context) error {
		_, err := d.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: e.Handle, StagingTargetPath: path})
		return err
	})
	if err != nil {
		return fmt.Errorf("UnmountDevice failed: %w", err)
	}
	if err := removeTarget(path); err != nil {
		return err
	}
	if err := forget(dir); err != nil || !e.block() {
		return err
	}
	return gone(os.Remove(filepath.Dir(dir)))
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// reopen takes back the mark that a step is complete, before it is undone: from now on nobody may rely on it.
func (k *Kind) reopen(dir string) error {
	e, err := read(dir)
	if err != nil || e.Complete == "" {
		return nil //nolint:nilerr // an entry that cannot be read counts as incomplete
	}
	e.Complete = ""
	return k.journal.save(dir, &e)
}

// removeTarget removes what a driver should have removed itself, if nothing is mounted there and nothing lies in it.
func removeTarget(path string) error {
	err := os.Remove(path)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("the CSI driver has left %s mounted: %w", path, err)
	}
	return fmt.Errorf("remove what the CSI driver has left: %w", err)
}

// forget removes an entry, last, and its directory.
func forget(dir string) error {
	for _, path := range []string{filepath.Join(dir, "."+dataFile), filepath.Join(dir, dataFile), dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget the volume: %w", err)
		}
	}
	return nil
}
