package driver

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
)

const (
	// staleAfter is how long what a driver told of a device counts, unless the driver says for how long.
	staleAfter = 30 * time.Second
	// mostDevices of a driver are kept: nobody checks what a driver reports, so something must bound it.
	mostDevices = 16384
	// listenPause is the time between attempts to listen to a driver.
	listenPause = time.Second
)

// Device is a device of a driver.
type Device struct{ Pool, Name string }

// Health of a device as its driver told it.
type Health struct {
	Status  v1.ResourceHealthStatus
	Message string
}

// entry is what is known about a device, and until when that counts.
type entry struct {
	Health
	keeps time.Duration
	until time.Time
}

// book has the health of devices.
type book struct {
	mu      sync.Mutex
	drivers map[string]map[Device]entry
}

// Health tells how a device is: Unknown unless its driver has told not long ago.
func (d *Drivers) Health(driver string, dev Device) Health {
	return d.book.get(driver, dev, time.Now())
}

func (b *book) get(driver string, dev Device, now time.Time) Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.drivers[driver][dev]
	if !ok || now.After(e.until) {
		return Health{Status: v1.ResourceHealthStatusUnknown}
	}
	return e.Health
}

// update takes in a report, which is complete, and returns the devices about which something else is known now.
func (b *book) update(driver string, report map[Device]entry, now time.Time) []Device {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.drivers[driver]
	if known == nil {
		known = map[Device]entry{}
		b.drivers[driver] = known
	}
	var changed []Device
	for dev, e := range report {
		old, ok := known[dev]
		if !ok && len(known) >= mostDevices {
			continue
		}
		e.until = now.Add(e.keeps)
		known[dev] = e
		if !ok || old.Health != e.Health || now.After(old.until) {
			changed = append(changed, dev)
		}
	}
	return changed
}

// expire forgets what has become old, and returns which devices that were.
func (b *book) expire(now time.Time) map[string][]Device {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := map[string][]Device{}
	for driver, devices := range b.drivers {
		for dev, e := range devices {
			if !now.After(e.until) {
				continue
			}
			delete(devices, dev)
			if e.Status != v1.ResourceHealthStatusUnknown {
				changed[driver] = append(changed[driver], dev)
			}
		}
	}
	return changed
}

// next is when something becomes old; zero for never.
func (b *book) next() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	var first time.Time
	for _, devices := range b.drivers {
		for _, e := range devices {
			if first.IsZero() || e.until.Before(first) {
				first = e.until
			}
		}
	}
	return first
}

// clear forgets all of a driver.
func (b *book) clear(driver string) []Device {
	b.mu.Lock()
	defer b.mu.Unlock()
	var changed []Device
	for dev, e := range b.drivers[driver] {
		if e.Status != v1.ResourceHealthStatusUnknown {
			changed = append(changed, dev)
		}
	}
	delete(b.drivers, driver)
	return changed
}

// listen takes in what a plugin tells of its devices, until ctx ends or the plugin says that it never will.
func (d *Drivers) listen(ctx context.Context, p *Plugin, service string) {
	for {
		err := d.follow(ctx, p, service)
		if changed := d.book.clear(p.driver); len(changed) > 0 {
			d.cfg.Sick(p.driver, changed)
		}
		if ctx.Err() != nil || status.Code(err) == codes.Unimplemented {
			return
		}
		if !errors.Is(err, io.EOF) {
			d.cfg.Log.Debug("a DRA driver does not tell of its devices' health, will be asked again", "driver", p.driver, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(listenPause):
		}
	}
}

// follow listens to one stream to its end.
func (d *Drivers) follow(ctx context.Context, p *Plugin, service string) error {
	var stream grpc.ServerStreamingClient[health.NodeWatchResourcesResponse]
	var err error
	if service == healthv1alpha1.DRAResourceHealthService {
		client := healthv1alpha1.NewDRAResourceHealthClient(p.conn)
		stream, err = health.V1Alpha1ClientWrapper{Client: client}.NodeWatchResources(ctx, &health.NodeWatchResourcesRequest{}, grpc.WaitForReady(true))
	} else {
		stream, err = health.NewDRAResourceHealthClient(p.conn).NodeWatchResources(ctx, &health.NodeWatchResourcesRequest{}, grpc.WaitForReady(true))
	}
	if err != nil {
		return err
	}
	for {
		report, err := stream.Recv()
		if err != nil {
			return err
		}
		if changed := d.book.update(p.driver, read(report), time.Now()); len(changed) > 0 {
			d.cfg.Sick(p.driver, changed)
		}
		d.poke() // something may become old sooner now
	}
}

// read translates a report.
func read(report *health.NodeWatchResourcesResponse) map[Device]entry {
	devices := map[Device]entry{}
	for _, h := range report.GetDevices() {
		e := entry{Health: Health{Status: v1.ResourceHealthStatusUnknown, Message: shorten(h.GetMessage())}, keeps: staleAfter}
		switch h.GetHealth() {
		case health.HealthStatus_HEALTHY:
			e.Status = v1.ResourceHealthStatusHealthy
		case health.HealthStatus_UNHEALTHY:
			e.Status = v1.ResourceHealthStatusUnhealthy
		}
		if s := h.GetHealthCheckTimeoutSeconds(); s > 0 {
			e.keeps = time.Duration(s) * time.Second
		}
		devices[Device{h.GetDevice().GetPoolName(), h.GetDevice().GetDeviceName()}] = e
	}
	return devices
}

// shorten makes a message fit the API.
func shorten(s string) string {
	if len(s) <= v1.ResourceHealthMessageMaxLength {
		return s
	}
	return s[:v1.ResourceHealthMessageMaxLength-3] + "..."
}
