package spec

import (
	"fmt"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerInput is what one container is made from, beside pod and node.
type ContainerInput struct {
	Pod  *v1.Pod
	Spec *v1.Container
	// Restarts is the attempt number.
	Restarts int
	// ImageRef is what the image service calls the image.
	ImageRef string
	User     ImageUser
	Env      []Var
	Mounts   []*cri.Mount
	Devices  []*cri.Device
	// Extra is what it gets beside its spec.
	Extra Extra
	// Target is the container whose PID namespace is joined, empty for none.
	Target string
}

// ContainerLog is the log path of a container, relative to the pod's log directory.
func ContainerLog(name string, restarts int) string {
	return filepath.Join(name, strconv.Itoa(restarts)+".log")
}

// Container is the configuration of one container.
func Container(n *Node, in *ContainerInput) (*cri.ContainerConfig, error) {
	p, c := in.Pod, in.Spec
	sc, err := security(n, p, c, in.User)
	if err != nil {
		return nil, err
	}
	if in.Target != "" && sc.NamespaceOptions.Pid == cri.NamespaceMode_CONTAINER {
		sc.NamespaceOptions.Pid, sc.NamespaceOptions.TargetId = cri.NamespaceMode_TARGET, in.Target
	}
	annotations, err := containerAnnotations(p, c, in.Restarts)
	if err != nil {
		return nil, err
	}
	in = in.Extra.merged(in, annotations)
	config := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: c.Name, Attempt: uint32(in.Restarts)},
		Image:       &cri.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, in.Env),
		Args:        expandAll(c.Args, in.Env),
		WorkingDir:  c.WorkingDir,
		Mounts:      in.Mounts,
		Devices:     in.Devices,
		CDIDevices:  in.Extra.CDIDevices,
		Labels:      containerLabels(p, c.Name),
		Annotations: annotations,
		LogPath:     ContainerLog(c.Name, in.Restarts),
		Stdin:       c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Linux: &cri.LinuxContainerConfig{Resources: Resources(n, p, c), SecurityContext: sc},
	}
	if ids := sc.NamespaceOptions.UsernsOptions; ids != nil { // files of the host are to look as if they were the pod's
		for _, m := range config.Mounts {
			m.UidMappings, m.GidMappings = ids.Uids, ids.Gids
		}
	}
	for _, v := range in.Env {
		config.Envs = append(config.Envs, &cri.KeyValue{Key: v.Name, Value: []byte(v.Value)})
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		value, ok := cri.Signal_value[string(*c.Lifecycle.StopSignal)]
		if !ok {
			return nil, fmt.Errorf("unsupported lifecycle.stopSignal: %s", *c.Lifecycle.StopSignal)
		}
		config.StopSignal = cri.Signal(value)
	}
	return config, nil
}

func expandAll(list []string, env []Var) []string {
	values := map[string]string{}
	for _, v := range env {
		values[v.Name] = v.Value
	}
	var out []string
	for _, s := range list {
		expanded, _ := Expand(s, func(name string) (string, bool) { v, ok := values[name]; return v, ok })
		out = append(out, expanded)
	}
	return out
}

// SubPath is the part of a volume that a mount shows: empty for all of it. $(NAME) in subPathExpr must be known.
func SubPath(m *v1.VolumeMount, env []Var) (string, error) {
	if m.SubPathExpr == "" {
		return m.SubPath, nil
	}
	values := map[string]string{}
	for _, v := range env {
		values[v.Name] = v.Value
	}
	path, unknown := Expand(m.SubPathExpr, func(name string) (string, bool) { v, ok := values[name]; return v, ok })
	if unknown != "" {
		return "", fmt.Errorf("missing value for %q in subPathExpr %q of volumeMount %q", unknown, m.SubPathExpr, m.Name)
	}
	return path, nil
}

// Mount is one volume mount; hostPath is the volume's (or its sub-path's) place on the host.
func Mount(m *v1.VolumeMount, hostPath string) *cri.Mount {
	out := &cri.Mount{ContainerPath: m.MountPath, HostPath: hostPath, Readonly: m.ReadOnly}
	if !filepath.IsAbs(out.ContainerPath) {
		out.ContainerPath = "/" + out.ContainerPath
	}
	if r := m.RecursiveReadOnly; r != nil && *r == v1.RecursiveReadOnlyEnabled {
		out.RecursiveReadOnly = true
	}
	if m.MountPropagation != nil {
		switch *m.MountPropagation {
		case v1.MountPropagationHostToContainer:
			out.Propagation = cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case v1.MountPropagationBidirectional:
			out.Propagation = cri.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	return out
}
