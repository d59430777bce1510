package runtimeservice

import (
	"net/netip"
	"strings"
	"time"
)

// SandboxMetadata is the identity of a sandbox: all four together.
type SandboxMetadata struct {
	Name      string
	UID       string
	Namespace string
	Attempt   uint32
}

// SandboxConfig is what a sandbox is asked to be.
type SandboxConfig struct {
	Metadata     SandboxMetadata
	Handler      string // runtime handler; "" is the default one
	Hostname     string
	LogDirectory string
	DNS          *DNS // nil: the node's own resolv.conf
	PortMappings []PortMapping
	Labels       map[string]string
	Annotations  map[string]string
	CgroupParent string // in cgroupfs syntax; "" lets the runtime choose
	Sysctls      map[string]string
	Overhead     *Resources
	Resources    *Resources
	Security     SandboxSecurity
}

// DNS is the content of resolv.conf.
type DNS struct {
	Servers, Searches, Options []string
}

// PortMapping publishes a port of a sandbox on the host; HostPort 0 publishes nothing.
type PortMapping struct {
	Protocol      Protocol
	ContainerPort uint16
	HostPort      uint16
	HostIP        netip.Addr // zero: every address of the host
}

// Protocol is a transport protocol.
type Protocol string

// The transport protocols of CRI.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// SandboxSecurity is the part of the security context that belongs to the pod.
type SandboxSecurity struct {
	Namespaces         Namespaces
	SELinux            *SELinux
	RunAsUser          *int64
	RunAsGroup         *int64
	SupplementalGroups []int64
	GroupsPolicy       GroupsPolicy
	ReadonlyRootfs     bool
	Privileged         bool
	Seccomp            *Profile
	AppArmor           *Profile
}

// NamespaceMode says whose namespace is used.
type NamespaceMode string

// The namespace modes of CRI.
const (
	NamespacePod       NamespaceMode = "pod"       // shared by the containers of the pod
	NamespaceContainer NamespaceMode = "container" // the container's own
	NamespaceNode      NamespaceMode = "node"      // the host's
	NamespaceTarget    NamespaceMode = "target"    // that of another container
)

// Namespaces chooses the namespaces of a sandbox or container.
type Namespaces struct {
	Network NamespaceMode
	PID     NamespaceMode
	IPC     NamespaceMode
	// TargetID is the container whose PID namespace is joined with NamespaceTarget.
	TargetID string
	// UserPod asks for a user namespace of the pod's own, mapped by UIDs and GIDs.
	UserPod    bool
	UIDs, GIDs []IDMapping
}

// IDMapping maps a range of user or group ids.
type IDMapping struct{ HostID, ContainerID, Length uint32 }

// HostID is the id on the host of a user or group of the container.
func HostID(mappings []IDMapping, id uint32) (uint32, bool) {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Length {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// SandboxState is what CRI tells of a sandbox.
type SandboxState string

// The sandbox states of CRI.
const (
	SandboxReady    SandboxState = "ready"
	SandboxNotReady SandboxState = "not ready"
)

// Sandbox is a sandbox as it is.
type Sandbox struct {
	ID        string
	Config    SandboxConfig
	State     SandboxState
	CreatedAt time.Time
	IPs       []netip.Addr // the primary address first; none with the host's network
	NetNS     string       // path of the pinned network namespace; "" with the host's network
}

// Filter selects sandboxes or containers. Zero fields select all.
type Filter struct {
	ID        string // a unique prefix will do
	SandboxID string // containers only
	State     string // a SandboxState or ContainerState
	Labels    map[string]string
}

// Matches says whether an object passes the fields that sandboxes and containers have in common.
func (f Filter) Matches(id, state string, labels map[string]string) bool {
	if !strings.HasPrefix(id, f.ID) || (f.State != "" && f.State != state) {
		return false
	}
	for name, value := range f.Labels {
		if have, ok := labels[name]; !ok || have != value {
			return false
		}
	}
	return true
}
