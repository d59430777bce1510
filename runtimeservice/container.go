package runtimeservice

import "time"

// ContainerMetadata is the identity of a container within its sandbox.
type ContainerMetadata struct {
	Name    string
	Attempt uint32
}

// Image names the image a container is made from.
type Image struct {
	Ref           string // what the request named: usually an image id
	UserSpecified string
	Annotations   map[string]string
	Handler       string
}

// ContainerConfig is what a container is asked to be.
type ContainerConfig struct {
	Metadata    ContainerMetadata
	Image       Image
	Command     []string
	Args        []string
	WorkingDir  string
	Env         []EnvVar
	Mounts      []Mount
	Devices     []Device
	CDIDevices  []string
	Labels      map[string]string
	Annotations map[string]string
	LogPath     string // relative to the sandbox's log directory
	Stdin       bool
	StdinOnce   bool
	TTY         bool
	StopSignal  string // "SIGTERM"; "" takes the image's
	Resources   Resources
	Security    ContainerSecurity
}

// EnvVar is one variable. Value is any bytes but NUL.
type EnvVar struct{ Name, Value string }

// Propagation is how mounts travel between host and container.
type Propagation string

// The mount propagations of CRI.
const (
	PropagationPrivate         Propagation = "private"
	PropagationHostToContainer Propagation = "rslave"
	PropagationBidirectional   Propagation = "rshared"
)

// Mount is a bind mount from the host, or an image volume when Image is set.
type Mount struct {
	ContainerPath     string
	HostPath          string
	Readonly          bool
	RecursiveReadonly bool
	Relabel           bool
	Propagation       Propagation
	UIDs, GIDs        []IDMapping
	Image             *Image
	ImageSubPath      string
	Options           []string
}

// Device is a host device in the container. Permissions is a subset of "rwm".
type Device struct{ ContainerPath, HostPath, Permissions string }

// ContainerSecurity is the security context of a container.
type ContainerSecurity struct {
	Capabilities       Capabilities
	Privileged         bool
	Namespaces         Namespaces
	SELinux            *SELinux
	RunAsUser          *int64
	RunAsGroup         *int64
	RunAsUsername      string
	SupplementalGroups []int64
	GroupsPolicy       GroupsPolicy
	ReadonlyRootfs     bool
	NoNewPrivs         bool
	MaskedPaths        []string
	ReadonlyPaths      []string
	Seccomp            *Profile
	AppArmor           *Profile
}

// Capabilities changes the default set. Names are with or without "CAP_"; "ALL" is every one.
type Capabilities struct{ Add, Drop, AddAmbient []string }

// GroupsPolicy says whether the groups of the image's user are added.
type GroupsPolicy string

// The supplemental groups policies of CRI. The zero value is merge.
const (
	GroupsMerge  GroupsPolicy = "merge"
	GroupsStrict GroupsPolicy = "strict"
)

// ProfileType is the kind of a security profile.
type ProfileType string

// The kinds of security profiles.
const (
	ProfileRuntimeDefault ProfileType = "runtime/default"
	ProfileUnconfined     ProfileType = "unconfined"
	ProfileLocalhost      ProfileType = "localhost"
)

// Profile is a seccomp or AppArmor profile. Ref is a file path (seccomp) or profile name (AppArmor).
type Profile struct {
	Type ProfileType
	Ref  string
}

// SELinux is a process label.
type SELinux struct{ User, Role, Type, Level string }

// Resources are the limits of a container. Zero fields are not set.
type Resources struct {
	CPUPeriod   int64 // microseconds
	CPUQuota    int64 // microseconds per period; -1 is unlimited
	CPUShares   int64
	MemoryLimit int64 // bytes
	MemorySwap  int64 // bytes, memory and swap together; -1 is unlimited
	OOMScoreAdj int64
	CPUSetCPUs  string
	CPUSetMems  string
	Hugepages   []HugepageLimit
	Unified     map[string]string // cgroup v2 file → content
}

// HugepageLimit limits one page size ("2MB") in bytes.
type HugepageLimit struct {
	PageSize string
	Limit    uint64
}

// ContainerState is what CRI tells of a container.
type ContainerState string

// The container states of CRI.
const (
	ContainerCreated ContainerState = "created"
	ContainerRunning ContainerState = "running"
	ContainerExited  ContainerState = "exited"
	ContainerUnknown ContainerState = "unknown"
)

// The reasons why a container ended, as CRI clients know them.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError"
	ReasonUnknown    = "ContainerStatusUnknown"
)

// User is the numeric identity of a container's process.
type User struct {
	UID, GID int64
	Groups   []int64
}

// Container is a container as it is.
type Container struct {
	ID        string
	SandboxID string
	Config    ContainerConfig
	ImageID   string // the image's id, "sha256:…"
	// VolumeImages are the ids of the images of Config.ImageVolumes.
	VolumeImages []string
	LogPath      string // absolute
	User         User
	StopSignal   string
	State        ContainerState
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	Pid          int
	ExitCode     int
	Reason       string
	Message      string
}

// ImageVolumes are the mounts that are images.
func (c ContainerConfig) ImageVolumes() []Mount {
	var out []Mount
	for _, m := range c.Mounts {
		if m.Image != nil {
			out = append(out, m)
		}
	}
	return out
}
