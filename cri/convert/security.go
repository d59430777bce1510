package convert

import (
	"fmt"
	"math"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

var modes = map[cri.NamespaceMode]runtimeservice.NamespaceMode{
	cri.NamespaceMode_POD:       runtimeservice.NamespacePod,
	cri.NamespaceMode_CONTAINER: runtimeservice.NamespaceContainer,
	cri.NamespaceMode_NODE:      runtimeservice.NamespaceNode,
	cri.NamespaceMode_TARGET:    runtimeservice.NamespaceTarget,
}

func namespaces(o *cri.NamespaceOption) (runtimeservice.Namespaces, error) {
	out := runtimeservice.Namespaces{TargetID: o.GetTargetId()}
	for _, ns := range []struct {
		field string
		in    cri.NamespaceMode
		out   *runtimeservice.NamespaceMode
	}{
		{"network", o.GetNetwork(), &out.Network},
		{"pid", o.GetPid(), &out.PID},
		{"ipc", o.GetIpc(), &out.IPC},
	} {
		mode, ok := modes[ns.in]
		if !ok || (mode == runtimeservice.NamespaceTarget && ns.field != "pid") {
			return out, invalid("namespace_options."+ns.field, "mode %v is not possible", ns.in)
		}
		*ns.out = mode
	}
	return out, userNamespace(o.GetUsernsOptions(), &out)
}

// userNamespace accepts one mapping of users and the same of groups, as KEP-127 has it.
func userNamespace(u *cri.UserNamespace, out *runtimeservice.Namespaces) error {
	switch {
	case u == nil || u.GetMode() == cri.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return invalid("userns_options", "mappings need mode POD")
		}
		return nil
	case u.GetMode() != cri.NamespaceMode_POD:
		return invalid("userns_options.mode", "only POD and NODE are possible, not %v", u.GetMode())
	case len(u.GetUids()) != 1 || len(u.GetGids()) != 1:
		return invalid("userns_options", "exactly one uid and one gid mapping are possible, not %d and %d", len(u.GetUids()), len(u.GetGids()))
	case u.GetUids()[0].GetContainerId() != 0 || u.GetGids()[0].GetContainerId() != 0:
		return invalid("userns_options", "the mapping must include id 0 of the container")
	}
	for field, m := range map[string]*cri.IDMapping{"uids": u.GetUids()[0], "gids": u.GetGids()[0]} {
		switch last := uint64(m.GetHostId()) + uint64(m.GetLength()); {
		case m.GetLength() == 0:
			return invalid("userns_options."+field, "the mapping is empty")
		case last > math.MaxUint32:
			return invalid("userns_options."+field, "%d ids from %d on are more than there are", m.GetLength(), m.GetHostId())
		}
	}
	out.UserPod, out.UIDs, out.GIDs = true, idMappings(u.GetUids()), idMappings(u.GetGids())
	return nil
}

func idMappings(in []*cri.IDMapping) []runtimeservice.IDMapping {
	var out []runtimeservice.IDMapping
	for _, m := range in {
		out = append(out, runtimeservice.IDMapping{HostID: m.GetHostId(), ContainerID: m.GetContainerId(), Length: m.GetLength()})
	}
	return out
}

func criMappings(in []runtimeservice.IDMapping) []*cri.IDMapping {
	var out []*cri.IDMapping
	for _, m := range in {
		out = append(out, &cri.IDMapping{HostId: m.HostID, ContainerId: m.ContainerID, Length: m.Length})
	}
	return out
}

func namespaceOption(n runtimeservice.Namespaces) *cri.NamespaceOption {
	out := &cri.NamespaceOption{TargetId: n.TargetID}
	for mode, name := range modes {
		for _, ns := range []struct {
			in  runtimeservice.NamespaceMode
			out *cri.NamespaceMode
		}{{n.Network, &out.Network}, {n.PID, &out.Pid}, {n.IPC, &out.Ipc}} {
			if ns.in == name {
				*ns.out = mode
			}
		}
	}
	if n.UserPod {
		out.UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: criMappings(n.UIDs), Gids: criMappings(n.GIDs)}
	}
	return out
}

func sandboxSecurity(s *cri.LinuxSandboxSecurityContext) (runtimeservice.SandboxSecurity, error) {
	ns, err := namespaces(s.GetNamespaceOptions())
	if err != nil {
		return runtimeservice.SandboxSecurity{}, err
	}
	if err := identity(s.GetRunAsUser(), s.GetRunAsGroup(), s.GetSupplementalGroups(), s.GetSupplementalGroupsPolicy()); err != nil {
		return runtimeservice.SandboxSecurity{}, err
	}
	if s.GetRunAsGroup() != nil && s.GetRunAsUser() == nil {
		return runtimeservice.SandboxSecurity{}, invalid("security_context.run_as_group", "needs run_as_user")
	}
	seccomp, err := profile("seccomp", s.GetSeccomp(), s.GetSeccompProfilePath())
	if err != nil {
		return runtimeservice.SandboxSecurity{}, err
	}
	apparmor, err := profile("apparmor", s.GetApparmor(), "")
	if err != nil {
		return runtimeservice.SandboxSecurity{}, err
	}
	return runtimeservice.SandboxSecurity{
		Namespaces:         ns,
		SELinux:            selinux(s.GetSelinuxOptions()),
		RunAsUser:          optionalInt(s.GetRunAsUser()),
		RunAsGroup:         optionalInt(s.GetRunAsGroup()),
		SupplementalGroups: s.GetSupplementalGroups(),
		GroupsPolicy:       groupsPolicy(s.GetSupplementalGroupsPolicy()),
		ReadonlyRootfs:     s.GetReadonlyRootfs(),
		Privileged:         s.GetPrivileged(),
		Seccomp:            seccomp,
		AppArmor:           apparmor,
	}, nil
}

// identity checks who the processes shall be.
func identity(user, group *cri.Int64Value, groups []int64, policy cri.SupplementalGroupsPolicy) error {
	for field, v := range map[string]*cri.Int64Value{"run_as_user": user, "run_as_group": group} {
		if v != nil && !isID(v.GetValue()) {
			return invalid("security_context."+field, "%d is no id", v.GetValue())
		}
	}
	for i, g := range groups {
		if !isID(g) {
			return invalid(fmt.Sprintf("security_context.supplemental_groups[%d]", i), "%d is no id", g)
		}
	}
	if _, ok := cri.SupplementalGroupsPolicy_name[int32(policy)]; !ok {
		return invalid("security_context.supplemental_groups_policy", "unknown value %d", policy)
	}
	return nil
}

// isID: the largest 32-bit number stands for "none" (credentials(7)).
func isID(v int64) bool { return v >= 0 && v < math.MaxUint32 }

func containerSecurity(s *cri.LinuxContainerSecurityContext) (runtimeservice.ContainerSecurity, error) {
	out := runtimeservice.ContainerSecurity{}
	if err := identity(s.GetRunAsUser(), s.GetRunAsGroup(), s.GetSupplementalGroups(), s.GetSupplementalGroupsPolicy()); err != nil {
		return out, err
	}
	if s.GetRunAsUser() != nil && s.GetRunAsUsername() != "" {
		return out, invalid("security_context.run_as_username", "run_as_user is set too; only one of them can be meant")
	}
	ns, err := namespaces(s.GetNamespaceOptions())
	if err != nil {
		return out, err
	}
	if s.GetRunAsGroup() != nil && s.GetRunAsUser() == nil && s.GetRunAsUsername() == "" {
		return out, invalid("security_context.run_as_group", "needs run_as_user or run_as_username")
	}
	seccomp, err := profile("seccomp", s.GetSeccomp(), s.GetSeccompProfilePath())
	if err != nil {
		return out, err
	}
	apparmor, err := profile("apparmor", s.GetApparmor(), s.GetApparmorProfile())
	if err != nil {
		return out, err
	}
	return runtimeservice.ContainerSecurity{
		Capabilities: runtimeservice.Capabilities{
			Add:        s.GetCapabilities().GetAddCapabilities(),
			Drop:       s.GetCapabilities().GetDropCapabilities(),
			AddAmbient: s.GetCapabilities().GetAddAmbientCapabilities(),
		},
		Privileged:         s.GetPrivileged(),
		Namespaces:         ns,
		SELinux:            selinux(s.GetSelinuxOptions()),
		RunAsUser:          optionalInt(s.GetRunAsUser()),
		RunAsGroup:         optionalInt(s.GetRunAsGroup()),
		RunAsUsername:      s.GetRunAsUsername(),
		SupplementalGroups: s.GetSupplementalGroups(),
		GroupsPolicy:       groupsPolicy(s.GetSupplementalGroupsPolicy()),
		ReadonlyRootfs:     s.GetReadonlyRootfs(),
		NoNewPrivs:         s.GetNoNewPrivs(),
		MaskedPaths:        s.GetMaskedPaths(),
		ReadonlyPaths:      s.GetReadonlyPaths(),
		Seccomp:            seccomp,
		AppArmor:           apparmor,
	}, nil
}

func optionalInt(v *cri.Int64Value) *int64 {
	if v == nil {
		return nil
	}
	n := v.GetValue()
	return &n
}

func selinux(o *cri.SELinuxOption) *runtimeservice.SELinux {
	if o == nil {
		return nil
	}
	return &runtimeservice.SELinux{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
}

func groupsPolicy(p cri.SupplementalGroupsPolicy) runtimeservice.GroupsPolicy {
	if p == cri.SupplementalGroupsPolicy_Strict {
		return runtimeservice.GroupsStrict
	}
	return runtimeservice.GroupsMerge
}

// profile reads a security profile, or where there is none the deprecated string form of it: "" (nothing asked),
// "runtime/default", "docker/default", "unconfined", "localhost/<ref>".
func profile(field string, p *cri.SecurityProfile, old string) (*runtimeservice.Profile, error) {
	if p == nil {
		return oldProfile(field, old)
	}
	switch p.GetProfileType() {
	case cri.SecurityProfile_RuntimeDefault:
		return &runtimeservice.Profile{Type: runtimeservice.ProfileRuntimeDefault}, nil
	case cri.SecurityProfile_Unconfined:
		return &runtimeservice.Profile{Type: runtimeservice.ProfileUnconfined}, nil
	case cri.SecurityProfile_Localhost:
		return localhost(field, p.GetLocalhostRef())
	}
	return nil, invalid("security_context."+field, "unknown profile type %d", p.GetProfileType())
}

func oldProfile(field, old string) (*runtimeservice.Profile, error) {
	ref, isLocal := strings.CutPrefix(old, "localhost/")
	switch {
	case old == "":
		return nil, nil
	case old == "runtime/default" || old == "docker/default":
		return &runtimeservice.Profile{Type: runtimeservice.ProfileRuntimeDefault}, nil
	case old == "unconfined":
		return &runtimeservice.Profile{Type: runtimeservice.ProfileUnconfined}, nil
	case isLocal:
		return localhost(field, ref)
	}
	return nil, invalid("security_context."+field, "profile %q is none of runtime/default, unconfined, localhost/<ref>", old)
}

func localhost(field, ref string) (*runtimeservice.Profile, error) {
	ref = strings.TrimPrefix(ref, "localhost/")
	if ref == "" {
		return nil, invalid("security_context."+field+".localhost_ref", "is empty")
	}
	return &runtimeservice.Profile{Type: runtimeservice.ProfileLocalhost, Ref: ref}, nil
}
