package convert

import (
	"fmt"
	"path"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// ContainerConfig reads the configuration of a container.
func ContainerConfig(c *cri.ContainerConfig) (runtimeservice.ContainerConfig, error) {
	out := runtimeservice.ContainerConfig{}
	switch {
	case c == nil:
		return out, invalid("config", "is missing")
	case c.GetMetadata() == nil || c.GetMetadata().GetName() == "":
		return out, invalid("config.metadata.name", "is missing")
	case c.GetImage().GetImage() == "":
		return out, invalid("config.image", "is missing")
	case c.GetWorkingDir() != "" && !path.IsAbs(c.GetWorkingDir()):
		return out, invalid("config.working_dir", "%q is not an absolute path", c.GetWorkingDir())
	case c.GetStdinOnce() && !c.GetStdin():
		return out, invalid("config.stdin_once", "needs stdin")
	}
	mounts, err := mounts(c.GetMounts())
	if err != nil {
		return out, err
	}
	env, err := env(c.GetEnvs())
	if err != nil {
		return out, err
	}
	security, err := containerSecurity(c.GetLinux().GetSecurityContext())
	if err != nil {
		return out, err
	}
	signal, err := stopSignal(c.GetStopSignal())
	if err != nil {
		return out, err
	}
	out = runtimeservice.ContainerConfig{
		Metadata:    runtimeservice.ContainerMetadata{Name: c.GetMetadata().GetName(), Attempt: c.GetMetadata().GetAttempt()},
		Image:       image(c.GetImage()),
		Command:     c.GetCommand(),
		Args:        c.GetArgs(),
		WorkingDir:  c.GetWorkingDir(),
		Env:         env,
		Mounts:      mounts,
		Labels:      c.GetLabels(),
		Annotations: c.GetAnnotations(),
		LogPath:     c.GetLogPath(),
		Stdin:       c.GetStdin(),
		StdinOnce:   c.GetStdinOnce(),
		TTY:         c.GetTty(),
		StopSignal:  signal,
		Resources:   Resources(c.GetLinux().GetResources()),
		Security:    security,
	}
	for i, d := range c.GetDevices() {
		if err := checkDevice(fmt.Sprintf("config.devices[%d]", i), d); err != nil {
			return out, err
		}
		out.Devices = append(out.Devices, runtimeservice.Device{
			ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions(),
		})
	}
	for i, d := range c.GetCDIDevices() {
		if d.GetName() == "" {
			return out, invalid(fmt.Sprintf("config.CDI_devices[%d].name", i), "is empty")
		}
		out.CDIDevices = append(out.CDIDevices, d.GetName())
	}
	return out, nil
}

func checkDevice(field string, d *cri.Device) error {
	switch {
	case d.GetHostPath() == "":
		return invalid(field+".host_path", "is empty")
	case !path.IsAbs(d.GetContainerPath()):
		return invalid(field+".container_path", "%q is not an absolute path", d.GetContainerPath())
	case strings.Trim(d.GetPermissions(), "rwm") != "":
		return invalid(field+".permissions", "%q is not made of r, w and m", d.GetPermissions())
	}
	return nil
}

func image(s *cri.ImageSpec) runtimeservice.Image {
	return runtimeservice.Image{
		Ref: s.GetImage(), UserSpecified: s.GetUserSpecifiedImage(),
		Annotations: s.GetAnnotations(), Handler: s.GetRuntimeHandler(),
	}
}

func env(in []*cri.KeyValue) ([]runtimeservice.EnvVar, error) {
	var out []runtimeservice.EnvVar
	for i, e := range in {
		name, value := e.GetKey(), string(e.GetValue())
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, invalid(fmt.Sprintf("config.envs[%d]", i), "%q is no environment variable", name)
		}
		out = append(out, runtimeservice.EnvVar{Name: name, Value: value})
	}
	return out, nil
}

var propagations = map[cri.MountPropagation]runtimeservice.Propagation{
	cri.MountPropagation_PROPAGATION_PRIVATE:           runtimeservice.PropagationPrivate,
	cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: runtimeservice.PropagationHostToContainer,
	cri.MountPropagation_PROPAGATION_BIDIRECTIONAL:     runtimeservice.PropagationBidirectional,
}

func mounts(in []*cri.Mount) ([]runtimeservice.Mount, error) {
	var out []runtimeservice.Mount
	for i, m := range in {
		field := fmt.Sprintf("config.mounts[%d]", i)
		propagation, ok := propagations[m.GetPropagation()]
		switch {
		case !ok:
			return nil, invalid(field+".propagation", "unknown value %d", m.GetPropagation())
		case m.GetContainerPath() == "":
			return nil, invalid(field+".container_path", "is empty")
		case m.GetHostPath() == "" && m.GetImage() == nil:
			return nil, invalid(field+".host_path", "is empty")
		case m.GetHostPath() != "" && m.GetImage() != nil:
			return nil, invalid(field+".host_path", "must not be set beside image")
		case m.GetImage() != nil && m.GetImage().GetImage() == "":
			return nil, invalid(field+".image.image", "is empty")
		case m.GetImage() != nil && !m.GetReadonly():
			return nil, invalid(field+".readonly", "must be set: images are mounted read-only")
		case m.GetImage() == nil && m.GetImageSubPath() != "":
			return nil, invalid(field+".image_sub_path", "needs image")
		case (len(m.GetUidMappings()) == 0) != (len(m.GetGidMappings()) == 0):
			return nil, invalid(field, "uidMappings and gidMappings go together")
		case m.GetRecursiveReadOnly() && (!m.GetReadonly() || propagation != runtimeservice.PropagationPrivate):
			return nil, invalid(field+".recursive_read_only", "needs readonly and private propagation")
		}
		if err := mountOptions(field, m.GetMountOptions()); err != nil {
			return nil, err
		}
		mount := runtimeservice.Mount{
			ContainerPath:     path.Join("/", m.GetContainerPath()),
			HostPath:          m.GetHostPath(),
			Readonly:          m.GetReadonly(),
			RecursiveReadonly: m.GetRecursiveReadOnly(),
			Relabel:           m.GetSelinuxRelabel(),
			Propagation:       propagation,
			UIDs:              idMappings(m.GetUidMappings()),
			GIDs:              idMappings(m.GetGidMappings()),
			ImageSubPath:      m.GetImageSubPath(),
			Options:           m.GetMountOptions(),
		}
		if m.GetImage() != nil {
			img := image(m.GetImage())
			mount.Image = &img
		}
		out = append(out, mount)
	}
	return out, nil
}

// mountOptions allows what makes a bind mount do less (KEP-5855). What a mount is, whether it can be written and where
// it propagates are said by other fields.
func mountOptions(field string, options []string) error {
	for i, o := range options {
		switch o {
		case "noexec", "nodev", "nosuid", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow":
		default:
			return invalid(fmt.Sprintf("%s.mount_options[%d]", field, i),
				"%q is none of noexec, nodev, nosuid, noatime, nodiratime, relatime, strictatime, nosymfollow", o)
		}
	}
	return nil
}

// criMounts adds the ids of the images that are mounted, in order.
func criMounts(in []runtimeservice.Mount, images []string) []*cri.Mount {
	var out []*cri.Mount
	for _, m := range in {
		mount := &cri.Mount{
			ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.Readonly,
			RecursiveReadOnly: m.RecursiveReadonly, SelinuxRelabel: m.Relabel,
			UidMappings: criMappings(m.UIDs), GidMappings: criMappings(m.GIDs),
			ImageSubPath: m.ImageSubPath, MountOptions: m.Options,
		}
		for p, name := range propagations {
			if name == m.Propagation {
				mount.Propagation = p
			}
		}
		if m.Image != nil {
			mount.Image = imageSpec(*m.Image)
			if len(images) > 0 {
				mount.Image.ImageRef, images = images[0], images[1:]
			}
		}
		out = append(out, mount)
	}
	return out
}

func imageSpec(i runtimeservice.Image) *cri.ImageSpec {
	return &cri.ImageSpec{
		Image: i.Ref, UserSpecifiedImage: i.UserSpecified, Annotations: i.Annotations, RuntimeHandler: i.Handler,
	}
}

// stopSignal turns SIGNAL_SIGRTMINPLUS3 into "SIGRTMIN+3"; the runtime's default is "".
func stopSignal(s cri.Signal) (string, error) {
	if s == cri.Signal_SIGNAL_RUNTIME_DEFAULT {
		return "", nil
	}
	name, ok := cri.Signal_name[int32(s)]
	if !ok {
		return "", invalid("config.stop_signal", "unknown value %d", s)
	}
	name = strings.TrimPrefix(name, "SIGNAL_")
	return strings.NewReplacer("MINPLUS", "MIN+", "MAXMINUS", "MAX-").Replace(name), nil
}

func criSignal(name string) cri.Signal {
	name = strings.NewReplacer("MIN+", "MINPLUS", "MAX-", "MAXMINUS").Replace(name)
	return cri.Signal(cri.Signal_value["SIGNAL_"+name])
}

var states = map[runtimeservice.ContainerState]cri.ContainerState{
	runtimeservice.ContainerCreated: cri.ContainerState_CONTAINER_CREATED,
	runtimeservice.ContainerRunning: cri.ContainerState_CONTAINER_RUNNING,
	runtimeservice.ContainerExited:  cri.ContainerState_CONTAINER_EXITED,
	runtimeservice.ContainerUnknown: cri.ContainerState_CONTAINER_UNKNOWN,
}

// Container is the short form that lists carry.
func Container(c runtimeservice.Container) *cri.Container {
	return &cri.Container{
		Id:           c.ID,
		PodSandboxId: c.SandboxID,
		Metadata:     containerMetadata(c.Config.Metadata),
		Image:        imageSpec(c.Config.Image),
		ImageRef:     c.ImageID,
		ImageId:      c.ImageID,
		State:        states[c.State],
		CreatedAt:    c.CreatedAt.UnixNano(),
		Labels:       c.Config.Labels,
		Annotations:  c.Config.Annotations,
	}
}

// ContainerStatus is the long form. image is the container's, as it is named now; nil when the node does not have it any more.
// As containerd's, image is a tag of it and image_ref a digest that it is known by, where there are such: kubelets show both to
// users, and give the id alone when they create a container. The id is in image_id, and lists have what was given.
func ContainerStatus(c runtimeservice.Container, image *imageservice.Image) *cri.ContainerStatus {
	spec, ref := imageSpec(c.Config.Image), c.ImageID
	if image != nil && len(image.RepoTags) > 0 {
		spec = &cri.ImageSpec{Image: image.RepoTags[0]}
	}
	if image != nil && len(image.RepoDigests) > 0 {
		ref = image.RepoDigests[0]
	}
	return &cri.ContainerStatus{
		Id:          c.ID,
		Metadata:    containerMetadata(c.Config.Metadata),
		State:       states[c.State],
		CreatedAt:   c.CreatedAt.UnixNano(),
		StartedAt:   nanos(c.StartedAt),
		FinishedAt:  nanos(c.FinishedAt),
		ExitCode:    int32(c.ExitCode),
		Image:       spec,
		ImageRef:    ref,
		ImageId:     c.ImageID,
		Reason:      c.Reason,
		Message:     c.Message,
		Labels:      c.Config.Labels,
		Annotations: c.Config.Annotations,
		Mounts:      criMounts(c.Config.Mounts, c.VolumeImages),
		LogPath:     c.LogPath,
		Resources:   &cri.ContainerResources{Linux: criResources(c.Config.Resources)},
		User: &cri.ContainerUser{Linux: &cri.LinuxContainerUser{
			Uid: c.User.UID, Gid: c.User.GID, SupplementalGroups: c.User.Groups,
		}},
		StopSignal: criSignal(c.StopSignal),
	}
}

func containerMetadata(m runtimeservice.ContainerMetadata) *cri.ContainerMetadata {
	return &cri.ContainerMetadata{Name: m.Name, Attempt: m.Attempt}
}

// nanos is 0 for a time that has not come.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// ContainerFilter reads the filter of a container list.
func ContainerFilter(f *cri.ContainerFilter) runtimeservice.Filter {
	out := runtimeservice.Filter{ID: f.GetId(), SandboxID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()}
	if f.GetState() == nil {
		return out
	}
	for name, state := range states {
		if state == f.GetState().GetState() {
			out.State = string(name)
		}
	}
	return out
}
