package driver

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
)

func TestBook(t *testing.T) {
	b := book{drivers: map[string]map[Device]entry{}}
	now := time.Unix(1000, 0)
	a, c := Device{"p", "a"}, Device{"p", "c"}
	tell := func(dev Device, h health.HealthStatus, seconds int64) *health.DeviceHealth {
		return &health.DeviceHealth{Device: &health.DeviceIdentifier{PoolName: dev.Pool, DeviceName: dev.Name}, Health: h, HealthCheckTimeoutSeconds: seconds}
	}
	update := func(want int, list ...*health.DeviceHealth) {
		t.Helper()
		if got := b.update("d", read(&health.NodeWatchResourcesResponse{Devices: list}), now); len(got) != want {
			t.Errorf("changed %v, want %d", got, want)
		}
	}
	is := func(dev Device, want v1.ResourceHealthStatus) {
		t.Helper()
		if got := b.get("d", dev, now).Status; got != want {
			t.Errorf("%v is %s, want %s", dev, got, want)
		}
	}
	is(a, v1.ResourceHealthStatusUnknown)
	update(2, tell(a, health.HealthStatus_HEALTHY, 0), tell(c, health.HealthStatus_HEALTHY, 100))
	update(0, tell(a, health.HealthStatus_HEALTHY, 0), tell(c, health.HealthStatus_HEALTHY, 100))
	now = now.Add(20 * time.Second)
	update(1, tell(c, health.HealthStatus_UNHEALTHY, 100)) // nothing about a: what was told still counts
	is(a, v1.ResourceHealthStatusHealthy)
	is(c, v1.ResourceHealthStatusUnhealthy)
	if next := b.next(); !next.Equal(time.Unix(1030, 0)) {
		t.Errorf("next is %v", next)
	}
	now = now.Add(11 * time.Second)
	is(a, v1.ResourceHealthStatusUnknown)
	if old := b.expire(now); len(old["d"]) != 1 || old["d"][0] != a {
		t.Errorf("old: %v", old)
	}
	if old := b.expire(now); len(old) != 0 {
		t.Errorf("old again: %v", old)
	}
	if changed := b.clear("d"); len(changed) != 1 || changed[0] != c {
		t.Errorf("cleared: %v", changed)
	}
	is(c, v1.ResourceHealthStatusUnknown)
}
