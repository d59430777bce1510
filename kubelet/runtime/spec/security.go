package spec

import (
	"fmt"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// ImageUser is the user an image wants to run as: a number, or a name that only the image can resolve.
type ImageUser struct {
	UID  *int64
	Name string
}

// effective is the container's security context with the pod's where the container says nothing.
func effective(p *v1.Pod, c *v1.Container) v1.SecurityContext {
	var sc v1.SecurityContext
	if c.SecurityContext != nil {
		sc = *c.SecurityContext
	}
	whole := p.Spec.SecurityContext
	if whole == nil {
		return sc
	}
	fill(&sc.RunAsUser, whole.RunAsUser)
	fill(&sc.RunAsGroup, whole.RunAsGroup)
	fill(&sc.RunAsNonRoot, whole.RunAsNonRoot)
	fill(&sc.SELinuxOptions, whole.SELinuxOptions)
	fill(&sc.SeccompProfile, whole.SeccompProfile)
	fill(&sc.AppArmorProfile, whole.AppArmorProfile)
	return sc
}

func fill[T any](field **T, from *T) {
	if *field == nil {
		*field = from
	}
}

// security translates the container's security context.
func security(n *Node, p *v1.Pod, c *v1.Container, user ImageUser) (*cri.LinuxContainerSecurityContext, error) {
	sc := effective(p, c)
	if err := checkNonRoot(p, c, &sc, user); err != nil {
		return nil, err
	}
	ns, err := namespaces(n, p)
	if err != nil {
		return nil, err
	}
	out := &cri.LinuxContainerSecurityContext{
		NamespaceOptions: ns,
		Privileged:       isTrue(sc.Privileged),
		ReadonlyRootfs:   isTrue(sc.ReadOnlyRootFilesystem),
		RunAsUser:        int64Value(sc.RunAsUser),
		RunAsGroup:       int64Value(sc.RunAsGroup),
		SelinuxOptions:   selinux(sc.SELinuxOptions),
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
	}
	if sc.Capabilities != nil {
		out.Capabilities = &cri.Capability{}
		for _, name := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(name))
		}
	}
	if out.RunAsUser == nil {
		out.RunAsUser, out.RunAsUsername = int64Value(user.UID), user.Name
	}
	if sc.ProcMount == nil || *sc.ProcMount != v1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	return out, profiles(n, p, &sc, out)
}

// profiles fills in what depends on the pod's security context and on files of the node.
func profiles(n *Node, p *v1.Pod, sc *v1.SecurityContext, out *cri.LinuxContainerSecurityContext) error {
	var err error
	if out.SupplementalGroups, out.SupplementalGroupsPolicy, err = groups(p.Spec.SecurityContext); err != nil {
		return err
	}
	if out.Seccomp, err = seccomp(n, sc.SeccompProfile); err != nil {
		return err
	}
	out.Apparmor, out.ApparmorProfile, err = apparmor(sc.AppArmorProfile)
	return err
}

func checkNonRoot(p *v1.Pod, c *v1.Container, sc *v1.SecurityContext, user ImageUser) error {
	if !isTrue(sc.RunAsNonRoot) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", pod.Describe(p), c.Name)
	switch {
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case sc.RunAsUser != nil:
		return nil
	case user.UID == nil && user.Name != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", user.Name, where)
	case user.UID != nil && *user.UID == 0:
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	}
	return nil
}

func seccomp(n *Node, profile *v1.SeccompProfile) (*cri.SecurityProfile, error) {
	kind := cri.SecurityProfile_Unconfined
	if n.SeccompDefault {
		kind = cri.SecurityProfile_RuntimeDefault
	}
	if profile == nil {
		return &cri.SecurityProfile{ProfileType: kind}, nil
	}
	switch profile.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		kind = cri.SecurityProfile_RuntimeDefault
	case v1.SeccompProfileTypeUnconfined:
		kind = cri.SecurityProfile_Unconfined
	case v1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile == nil || *profile.LocalhostProfile == "" {
			return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost")
		}
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost,
			LocalhostRef: filepath.Join(n.SeccompDir, filepath.FromSlash(*profile.LocalhostProfile))}, nil
	}
	return &cri.SecurityProfile{ProfileType: kind}, nil
}

// apparmor gives the profile, and its older spelling for runtimes that know only that.
func apparmor(profile *v1.AppArmorProfile) (*cri.SecurityProfile, string, error) {
	if profile == nil {
		return nil, "", nil
	}
	switch profile.Type {
	case v1.AppArmorProfileTypeRuntimeDefault:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}, "runtime/default", nil
	case v1.AppArmorProfileTypeUnconfined:
		return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}, "unconfined", nil
	}
	if profile.LocalhostProfile == nil {
		return nil, "", fmt.Errorf("missing localhost apparmor profile name")
	}
	return &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: *profile.LocalhostProfile},
		"localhost/" + *profile.LocalhostProfile, nil
}

// groups are the supplementary groups of the pod's processes: that of its volumes, then those asked for.
func groups(sc *v1.PodSecurityContext) ([]int64, cri.SupplementalGroupsPolicy, error) {
	policy := cri.SupplementalGroupsPolicy_Merge
	if sc == nil {
		return nil, policy, nil
	}
	var list []int64
	if sc.FSGroup != nil {
		list = append(list, *sc.FSGroup)
	}
	list = append(list, sc.SupplementalGroups...)
	if sc.SupplementalGroupsPolicy != nil {
		value, ok := cri.SupplementalGroupsPolicy_value[string(*sc.SupplementalGroupsPolicy)]
		if !ok {
			return nil, policy, fmt.Errorf("unsupported supplementalGroupsPolicy: %s", *sc.SupplementalGroupsPolicy)
		}
		policy = cri.SupplementalGroupsPolicy(value)
	}
	return list, policy, nil
}

func selinux(o *v1.SELinuxOptions) *cri.SELinuxOption {
	if o == nil {
		return nil
	}
	return &cri.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func int64Value(v *int64) *cri.Int64Value {
	if v == nil {
		return nil
	}
	return &cri.Int64Value{Value: *v}
}

func isTrue(b *bool) bool { return b != nil && *b }

// maskedPaths are hidden from unprivileged containers: they tell about, or act on, the whole machine.
func maskedPaths() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
