// Package cdi adds devices by their qualified names, "vendor.com/class=name", as the Container Device Interface describes
// them in files (tags.cncf.io/container-device-interface). The files are read anew whenever a container asks for such a
// device, so a vendor's tool may write one at any time.
package cdi

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/skiff-node/skiff/runtimeservice"
)

// DefaultDirs are where the files are, the later ones first in rank.
var DefaultDirs = []string{"/etc/cdi", "/var/run/cdi"}

// Names lists the devices that a container asks for: in the field CDI_devices first, then by annotations
// "cdi.k8s.io/<anything>", which clients older than the field use. A device named twice is listed once.
func Names(c runtimeservice.ContainerConfig) ([]string, error) {
	_, annotated, err := cdi.ParseAnnotations(c.Annotations)
	if err != nil {
		return nil, fmt.Errorf("%w: config.annotations: %w", runtimeservice.ErrInvalid, err)
	}
	var out []string
	for _, name := range append(slices.Clone(c.CDIDevices), annotated...) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// Inject adds the devices that the container asks for, with all that their files say a container needs for them: device
// nodes, mounts, variables, hooks, groups.
func Inject(s *specs.Spec, c runtimeservice.ContainerConfig, dirs []string) error {
	names, err := Names(c)
	if err != nil || len(names) == 0 {
		return err
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("read CDI files: %w", err)
	}
	unknown, err := cache.InjectDevices(s, names...)
	if len(unknown) > 0 {
		return fmt.Errorf("%w: config.CDI_devices: no file in %s describes %s%s", runtimeservice.ErrInvalid,
			strings.Join(dirs, ", "), strings.Join(unknown, ", "), unreadable(cache))
	}
	if err != nil {
		return fmt.Errorf("%w: config.CDI_devices: %w", runtimeservice.ErrInvalid, err)
	}
	return nil
}

// unreadable says which files could not be read: a missing device may be in one of them.
func unreadable(cache *cdi.Cache) string {
	var errs []error
	for _, list := range cache.GetErrors() {
		errs = append(errs, list...)
	}
	if err := errors.Join(errs...); err != nil {
		return "; not readable: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return ""
}
