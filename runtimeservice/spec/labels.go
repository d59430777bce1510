package spec

import (
	"cmp"
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
	s.Process.SelinuxLabel, s.Linux.MountLabel = SELinuxLabels(in.Sandbox.Security.SELinux, security, in.Host)
	return nil
}

// SELinuxLabels are the labels of a container's process and of its files. Where neither it nor its pod asks for one there are
// none: then the policy decides by what starts it. What a request leaves open is the pod's, or else what
// container-selinux calls the domain of containers. A privileged container is in none of these.
func SELinuxLabels(pod *runtimeservice.SELinux, s runtimeservice.ContainerSecurity, h Host) (process, files string) {
	if !h.SELinux || s.Privileged || (pod == nil && s.SELinux == nil) {
		return "", ""
	}
	l := runtimeservice.SELinux{User: "system_u", Role: "system_r", Type: "container_t", Level: "s0"}
	for _, asked := range []*runtimeservice.SELinux{pod, s.SELinux} {
		if asked == nil {
			continue
		}
		l.User, l.Role = cmp.Or(asked.User, l.User), cmp.Or(asked.Role, l.Role)
		l.Type, l.Level = cmp.Or(asked.Type, l.Type), cmp.Or(asked.Level, l.Level)
	}
	return strings.Join([]string{l.User, l.Role, l.Type, l.Level}, ":"), strings.Join([]string{l.User, "object_r", "container_file_t", l.Level}, ":")
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
