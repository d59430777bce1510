// Package kinds lists the volume kinds of this kubelet. A new kind is a package beside this one and a line here.
package kinds

import (
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/emptydir"
	"github.com/skiff-node/skiff/kubelet/volume/hostpath"
	"github.com/skiff-node/skiff/kubelet/volume/projected"
)

// All returns every kind.
func All(cfg projected.Config) []volume.Kind {
	return append([]volume.Kind{
		emptydir.Kind{Allocatable: cfg.Allocatable},
		hostpath.Kind{},
	}, projected.Kinds(cfg)...)
}
