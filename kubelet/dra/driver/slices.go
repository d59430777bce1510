package driver

import (
	"context"
	"sync"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// Pauses between attempts to delete ResourceSlices, and between looks whether the node is registered.
const firstPause, lastPause, lookPause = time.Second, 5 * time.Minute, 50 * time.Millisecond

// Run deletes the ResourceSlices that nobody stands for any more, and lets what drivers told of health become old, until ctx ends.
func (d *Drivers) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	defer d.close()
	group.Go(func() { d.wipe(ctx, "", func() bool { return true }) })
	for {
		for _, name := range d.due(time.Now()) {
			d.cfg.Log.Info("a DRA driver has been gone for long, its ResourceSlices are deleted", "driver", name)
			group.Go(func() { d.wipe(ctx, name, func() bool { return d.gone(name) }) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-time.After(d.pause(time.Now())):
		}
		for name, devices := range d.book.expire(time.Now()) {
			d.cfg.Sick(name, devices)
		}
	}
}

// due names the drivers that have been lost for long enough, once each.
func (d *Drivers) due(now time.Time) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name, since := range d.lost {
		if !since.IsZero() && now.Sub(since) >= d.cfg.WipeAfter {
			names = append(names, name)
			d.lost[name] = time.Time{} // it stays lost, but has been dealt with
		}
	}
	return names
}

// gone tells whether the driver is still lost.
func (d *Drivers) gone(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, lost := d.lost[name]
	return lost
}

// pause is how long Run has nothing to do.
func (d *Drivers) pause(now time.Time) time.Duration {
	wait := time.Hour
	if next := d.book.next(); !next.IsZero() {
		wait = min(wait, next.Sub(now))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, since := range d.lost {
		if !since.IsZero() {
			wait = min(wait, since.Add(d.cfg.WipeAfter).Sub(now))
		}
	}
	return max(wait, time.Millisecond)
}

// wipe deletes the node's ResourceSlices, of one driver or with an empty name of all. It goes on until it has succeeded or
// nobody wants it any more.
func (d *Drivers) wipe(ctx context.Context, driver string, wanted func() bool) {
	which := fields.Set{resourceapi.ResourceSliceSelectorNodeName: d.cfg.Node}
	if driver != "" {
		which[resourceapi.ResourceSliceSelectorDriver] = driver
	}
	for pause, wait := firstPause, lookPause; wanted(); {
		if d.cfg.Registered() {
			err := d.cfg.Client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: which.String()})
			if err == nil || apierrors.IsNotFound(err) {
				return
			}
			if ctx.Err() == nil {
				d.cfg.Log.Warn("cannot delete ResourceSlices, will be tried again", "which", which.String(), "err", err)
			}
			pause, wait = min(2*pause, lastPause), pause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
