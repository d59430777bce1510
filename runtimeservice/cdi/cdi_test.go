package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

const file = `cdiVersion: "0.6.0"
kind: "vendor.com/net"
devices:
- name: zero
  containerEdits:
    env: ["ZERO=yes"]
    deviceNodes:
    - {path: /dev/zero0, hostPath: /dev/zero, permissions: r}
- name: one
  containerEdits:
    mounts:
    - {hostPath: /usr/lib, containerPath: /vendor, options: [ro, rbind]}
`

func blank() *specs.Spec { return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}} }

func TestInject(t *testing.T) {
	dir := t.TempDir()
	asks := runtimeservice.ContainerConfig{
		CDIDevices:  []string{"vendor.com/net=zero"},
		Annotations: map[string]string{"cdi.k8s.io/plugin_1": "vendor.com/net=one,vendor.com/net=zero"},
	}
	err := Inject(blank(), asks, []string{dir})
	if !errors.Is(err, runtimeservice.ErrInvalid) || !strings.Contains(err.Error(), "vendor.com/net=zero") {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vendor.yaml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	s := blank()
	if err := Inject(s, asks, []string{dir}); err != nil { // the file is seen though it came later
		t.Fatal(err)
	}
	if !slices.Contains(s.Process.Env, "ZERO=yes") || len(s.Mounts) != 1 || s.Mounts[0].Destination != "/vendor" {
		t.Errorf("%+v", s)
	}
	if len(s.Linux.Devices) != 1 || s.Linux.Devices[0].Path != "/dev/zero0" || s.Linux.Devices[0].Minor != 5 ||
		len(s.Linux.Resources.Devices) != 1 || s.Linux.Resources.Devices[0].Access != "r" {
		t.Errorf("%+v, %+v", s.Linux.Devices, s.Linux.Resources)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]runtimeservice.ContainerConfig{
		"unknown device":   {CDIDevices: []string{"vendor.com/net=none"}},
		"no name":          {CDIDevices: []string{"/dev/zero"}},
		"wrong annotation": {Annotations: map[string]string{"cdi.k8s.io/x": "zero"}},
	} {
		err := Inject(blank(), c, []string{dir})
		if !errors.Is(err, runtimeservice.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "unknown device" && !strings.Contains(err.Error(), "bad.json") {
			t.Errorf("the file that cannot be read is not named: %v", err)
		}
	}
	if err := Inject(blank(), runtimeservice.ContainerConfig{}, []string{dir}); err != nil {
		t.Errorf("a container that asks for nothing: %v", err)
	}
}
