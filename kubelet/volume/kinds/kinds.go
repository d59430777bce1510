// Package kinds lists the volume kinds of this kubelet. A new kind is a package beside this one and a line here.
package kinds

import (
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/csi"
	"github.com/skiff-node/skiff/kubelet/volume/emptydir"
	"github.com/skiff-node/skiff/kubelet/volume/hostpath"
	"github.com/skiff-node/skiff/kubelet/volume/local"
	"github.com/skiff-node/skiff/kubelet/volume/projected"
)

// Config is what the kinds need.
type Config struct {
	Projected projected.Config
	// CSI is nil without an API server.
	CSI *csi.Kind
}

// All returns every kind.
func All(cfg Config) []volume.Kind {
	all := append([]volume.Kind{
		emptydir.Kind{Allocatable: cfg.Projected.Allocatable},
		hostpath.Kind{},
		&local.Kind{},
	}, projected.Kinds(cfg.Projected)...)
	if cfg.CSI != nil {
		all = append(all, cfg.CSI)
	}
	return all
}
