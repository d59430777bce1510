package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Driver says who makes cgroups: we, by making directories, or systemd, by making slices and scopes. Kubelet and runtime
// must have the same one; the kubelet asks for it (CRI RuntimeConfig).
type Driver string

// The drivers of CRI.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// scopePrefix begins the names of our scopes: skiff-<id>.scope.
const scopePrefix = "skiff"

// Check says why the driver cannot work on this machine.
func (d Driver) Check() error {
	switch d {
	case Cgroupfs:
		return nil
	case Systemd:
		if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
			return fmt.Errorf("cgroup driver systemd: this machine was not booted with systemd: %w", err)
		}
		return nil
	}
	return fmt.Errorf("cgroup driver %q is neither cgroupfs nor systemd", d)
}

// Pod is the path, below the root of each hierarchy, of the cgroup that a request names as the parent of a pod's
// containers. Under systemd that is a slice, given by its name or, as the kubelet does, by a path that ends in it.
func (d Driver) Pod(parent string) (string, error) {
	if d != Systemd {
		return filepath.Join("/", parent), nil
	}
	return expandSlice(filepath.Base(parent))
}

// Default is what Pod takes for a pod whose request names no parent.
func (d Driver) Default(parent, id string) string {
	if d != Systemd {
		return filepath.Join(parent, id)
	}
	return strings.TrimSuffix(filepath.Base(parent), ".slice") + "-" + id + ".slice"
}

// Container is the path of a container's cgroup in that of its pod, and how it is written in an OCI specification
// (linux.cgroupsPath), which for systemd is slice:prefix:name.
func (d Driver) Container(pod, id string) (path, oci string) {
	if d != Systemd {
		path = filepath.Join("/", pod, id)
		return path, path
	}
	return filepath.Join("/", pod, scopePrefix+"-"+id+".scope"), filepath.Base(pod) + ":" + scopePrefix + ":" + id
}

// expandSlice is the path of a slice: each dash descends a level, a-b.slice is in a.slice (systemd.slice(5)).
func expandSlice(name string) (string, error) {
	stem, isSlice := strings.CutSuffix(name, ".slice")
	if !isSlice || stem == "" {
		return "", fmt.Errorf("cgroup parent %q is no systemd slice, whose name ends in .slice; is the client's cgroup driver systemd too?", name)
	}
	if stem == "-" {
		return "/", nil
	}
	path, prefix := "", ""
	for part := range strings.SplitSeq(stem, "-") {
		if part == "" {
			return "", fmt.Errorf("cgroup parent %q is no systemd slice: it has an empty part between dashes", name)
		}
		path += "/" + prefix + part + ".slice"
		prefix += part + "-"
	}
	return path, nil
}
