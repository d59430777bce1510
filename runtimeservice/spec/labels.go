package spec

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// setLabels sets the AppArmor profile and the SELinux label. A kernel without AppArmor or SELinux runs containers
// without them, but a profile that was asked for by name must not be dropped in silence.
func setLabels(s *specs.Spec, in Input) error {
	security := in.Config.Security
	profile, err := apparmorProfile(security, in.Host)
	if err != nil {
		return err
	}
	s.Process.ApparmorProfile = profile
	if l := security.SELinux; l != nil && in.Host.SELinux && !security.Privileged {
		s.Process.SelinuxLabel = strings.Join([]string{l.User, l.Role, l.Type, l.Level}, ":")
	}
	return nil
}

// apparmorProfile: a container that says nothing has the default profile, unless it is privileged.
func apparmorProfile(s runtimeservice.ContainerSecurity, h Host) (string, error) {
	switch p := s.AppArmor; {
	case p != nil && p.Type == runtimeservice.ProfileLocalhost && !h.AppArmor:
		return "", invalid("security_context.apparmor: the kernel has no AppArmor, profile %q cannot be enforced", p.Ref)
	case p != nil && p.Type == runtimeservice.ProfileLocalhost:
		return p.Ref, nil
	case p != nil && p.Type == runtimeservice.ProfileUnconfined, !h.AppArmor:
		return "", nil
	case p == nil && s.Privileged:
		return "", nil
	}
	return h.AppArmorDefault, nil
}
