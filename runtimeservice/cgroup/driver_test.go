package cgroup

import "testing"

func TestPods(t *testing.T) {
	for _, tc := range []struct {
		driver       Driver
		parent, want string
		ok           bool
	}{
		{Cgroupfs, "/kubepods/burstable/pod1", "/kubepods/burstable/pod1", true},
		{Cgroupfs, "kubepods", "/kubepods", true},
		{Cgroupfs, "../../etc", "/etc", true},
		{Systemd, "kubepods-burstable-pod1_2.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice", true},
		{Systemd, "/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice", true},
		{Systemd, "system.slice", "/system.slice", true},
		{Systemd, "-.slice", "/", true},
		{Systemd, "/kubepods/burstable/pod1", "", false},
		{Systemd, "", "", false},
		{Systemd, ".slice", "", false},
		{Systemd, "a--b.slice", "", false},
		{Systemd, "-a.slice", "", false},
	} {
		got, err := tc.driver.Pod(tc.parent)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%s %q: %q, %v", tc.driver, tc.parent, got, err)
		}
	}
}

func TestContainers(t *testing.T) {
	for _, tc := range []struct {
		driver         Driver
		pod, path, oci string
	}{
		{Cgroupfs, "/kubepods/pod1", "/kubepods/pod1/c1", "/kubepods/pod1/c1"},
		{Systemd, "/kubepods.slice/kubepods-pod1.slice", "/kubepods.slice/kubepods-pod1.slice/skiff-c1.scope", "kubepods-pod1.slice:skiff:c1"},
	} {
		if path, oci := tc.driver.Container(tc.pod, "c1"); path != tc.path || oci != tc.oci {
			t.Errorf("%s: %s, %s", tc.driver, path, oci)
		}
	}
}

// TestDefaults: what a driver chooses, it accepts.
func TestDefaults(t *testing.T) {
	for driver, want := range map[Driver]string{Cgroupfs: "/skiff/pods/1", Systemd: "/skiff.slice/skiff-pods.slice/skiff-pods-1.slice"} {
		parent := "/skiff/pods"
		if driver == Systemd {
			parent = "skiff-pods.slice"
		}
		if got, err := driver.Pod(driver.Default(parent, "1")); err != nil || got != want {
			t.Errorf("%s: %s, %v", driver, got, err)
		}
	}
	if Driver("docker").Check() == nil || Cgroupfs.Check() != nil {
		t.Error("checks")
	}
}
