package csi

import (
	"fmt"
	"slices"

	"github.com/skiff-node/skiff/kubelet/volume/selinux"
)

// label has the volume mounted with the SELinux label of the pod, where driver and pod go along. A volume has one label.
func label(s *setup) error {
	if s.vol.Inline || s.vol.Block || !s.wish.Label {
		return nil
	}
	var err error
	if s.label, err = selinux.Mount(s.cfg.Labels, s.req.Pod, s.req.Volume.Name); err != nil {
		return err
	}
	if s.label != "" {
		s.vol.Options = append(slices.Clone(s.vol.Options), selinux.Option(s.label))
	}
	others, err := s.journal.others(s.vol.identity(), string(s.req.Pod.UID))
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Label != s.label {
			return fmt.Errorf("conflicting SELinux labels of volume %s: %q and %q", s.vol.Name, o.Label, s.label)
		}
	}
	return nil
}
