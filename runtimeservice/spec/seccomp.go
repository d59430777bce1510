package spec

import (
	"encoding/json"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// setSeccomp: no profile asked for means unconfined, which is what the kubelet's API promises.
func setSeccomp(s *specs.Spec, in Input) error {
	p := in.Config.Security.Seccomp
	if p == nil || p.Type == runtimeservice.ProfileUnconfined || in.Config.Security.Privileged {
		return nil
	}
	if !in.Host.Seccomp {
		return invalid("security_context.seccomp: the kernel has no seccomp filters")
	}
	if p.Type == runtimeservice.ProfileRuntimeDefault {
		s.Linux.Seccomp = seccomp.DefaultProfile(s)
		return nil
	}
	profile := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(in.Profiles.Seccomp, profile); err != nil {
		return invalid("security_context.seccomp: profile %q: %v", p.Ref, err)
	}
	s.Linux.Seccomp = profile
	return nil
}
