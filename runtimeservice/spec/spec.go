// Package spec turns what CRI asks of a container into an OCI runtime specification, one file per topic. It is
// pure: what must be looked up (the image's users, devices of the host, what the machine allows) is in its input.
package spec

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// Input is all that a specification is made from.
type Input struct {
	ID       string
	Config   runtimeservice.ContainerConfig
	Sandbox  runtimeservice.SandboxConfig
	Image    imageservice.Config
	User     runtimeservice.User
	Host     Host
	Rootfs   string // absolute path of the mounted root file system
	Cgroup   string // absolute cgroup path of the container, in cgroupfs syntax
	Joins    Joins
	Files    Files
	Volumes  []Volume // the mounts of Config, resolved
	Devices  []specs.LinuxDevice
	Profiles Profiles
	// NoHostDevices: a privileged container gets the devices it asks for, and no others.
	NoHostDevices bool
}

// Joins are paths of namespaces to join; "" with the mode that asks for it means the host's or a new one.
type Joins struct{ Network, IPC, UTS, PID, User string }

// Files are files and directories of the sandbox that each container sees.
type Files struct {
	ResolvConf, Hostname, Hosts string
	Shm                         string // directory mounted at /dev/shm
}

// Volume is a mount of the configuration whose source has been found.
type Volume struct {
	runtimeservice.Mount
	Source string
}

// Profiles holds the content of localhost security profiles.
type Profiles struct{ Seccomp []byte }

// OCIVersion is the version of the runtime specification that is spoken.
const OCIVersion = "1.3.0"

// Annotations that OCI hooks and tools for containers look for, as containerd names them.
const (
	annotationType    = "io.kubernetes.cri.container-type"
	annotationSandbox = "io.kubernetes.cri.sandbox-name"
	annotationNS      = "io.kubernetes.cri.sandbox-namespace"
	annotationUID     = "io.kubernetes.cri.sandbox-uid"
	annotationName    = "io.kubernetes.cri.container-name"
)

// Build makes the specification. An error wraps runtimeservice.ErrInvalid when the request is at fault.
func Build(in Input) (*specs.Spec, error) {
	s := &specs.Spec{
		Version: OCIVersion,
		Root:    &specs.Root{Path: in.Rootfs, Readonly: in.Config.Security.ReadonlyRootfs},
		Linux:   &specs.Linux{CgroupsPath: in.Cgroup},
		Annotations: map[string]string{
			annotationType:    "container",
			annotationName:    in.Config.Metadata.Name,
			annotationSandbox: in.Sandbox.Metadata.Name,
			annotationNS:      in.Sandbox.Metadata.Namespace,
			annotationUID:     in.Sandbox.Metadata.UID,
		},
	}
	for _, part := range []struct {
		name string
		set  func(*specs.Spec, Input) error
	}{
		{"process", setProcess},
		{"capabilities", setCapabilities},
		{"namespaces", setNamespaces},
		{"mounts", setMounts},
		{"devices", setDevices},
		{"resources", setResources},
		{"paths", setPaths},
		{"seccomp", setSeccomp}, // after the capabilities, which the default profile follows
		{"labels", setLabels},
	} {
		if err := part.set(s, in); err != nil {
			return nil, fmt.Errorf("specification of %s: %w", part.name, err)
		}
	}
	return s, nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", runtimeservice.ErrInvalid, fmt.Sprintf(format, args...))
}
