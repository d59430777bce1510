package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// setMounts lists the kernel's file systems, then the sandbox's files unless a volume covers them, then the volumes,
// parents before children.
func setMounts(s *specs.Spec, in Input) error {
	s.Mounts = kernelMounts(in)
	covered := map[string]bool{}
	for _, v := range in.Volumes {
		covered[path.Clean(v.ContainerPath)] = true
	}
	for _, f := range sandboxFiles(in) {
		if f.Source != "" && !covered[f.Destination] {
			s.Mounts = append(s.Mounts, f)
		}
	}
	volumes := slices.Clone(in.Volumes)
	slices.SortStableFunc(volumes, func(a, b Volume) int {
		return strings.Count(path.Clean(a.ContainerPath), "/") - strings.Count(path.Clean(b.ContainerPath), "/")
	})
	for _, v := range volumes {
		s.Mounts = dropMount(s.Mounts, path.Clean(v.ContainerPath))
		s.Mounts = append(s.Mounts, volumeMount(v))
		s.Linux.RootfsPropagation = widest(s.Linux.RootfsPropagation, v.Propagation)
	}
	return nil
}

func kernelMounts(in Input) []specs.Mount {
	access := "ro"
	if in.Config.Security.Privileged {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	if in.Joins.User == "" || in.Joins.Network != "" {
		return mounts
	}
	// Root of a user namespace may not mount what shows the host's network; the host's own mount of it will do.
	for i, m := range mounts {
		if m.Type == "sysfs" {
			mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: "/sys", Options: append(m.Options, "rbind", "rslave")}
		}
	}
	return mounts
}

func sandboxFiles(in Input) []specs.Mount {
	access := "rw"
	if in.Config.Security.ReadonlyRootfs {
		access = "ro"
	}
	bind := func(source, target string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	return []specs.Mount{
		bind(in.Files.Hosts, "/etc/hosts", access),
		bind(in.Files.Hostname, "/etc/hostname", access),
		bind(in.Files.ResolvConf, "/etc/resolv.conf", access),
		bind(in.Files.Shm, "/dev/shm", "rw", "nosuid", "noexec", "nodev"),
	}
}

// volumeMount adds what the client asked for by mount_options (KEP-5855) as it is.
func volumeMount(v Volume) specs.Mount {
	propagation := string(v.Propagation)
	if v.Propagation == runtimeservice.PropagationPrivate || propagation == "" {
		propagation = "rprivate"
	}
	options := []string{"rbind", propagation}
	switch {
	case v.RecursiveReadonly:
		options = append(options, "rro")
	case v.Readonly || v.Image != nil:
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	out := specs.Mount{
		Destination: v.ContainerPath, Type: "bind", Source: v.Source, Options: append(options, v.Options...),
	}
	if v.Image == nil { // the files of images have been mapped already
		out.UIDMappings, out.GIDMappings = idMappings(v.UIDs), idMappings(v.GIDs)
	}
	return out
}

func idMappings(in []runtimeservice.IDMapping) []specs.LinuxIDMapping {
	var out []specs.LinuxIDMapping
	for _, m := range in {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Length})
	}
	return out
}

// dropMount removes a default mount that a volume replaces at the very same place.
func dropMount(mounts []specs.Mount, target string) []specs.Mount {
	return slices.DeleteFunc(mounts, func(m specs.Mount) bool { return m.Destination == target })
}

// widest is the propagation of the root file system that lets a volume's propagation work.
func widest(have string, want runtimeservice.Propagation) string {
	switch {
	case want == runtimeservice.PropagationBidirectional:
		return "rshared"
	case want == runtimeservice.PropagationHostToContainer && have == "":
		return "rslave"
	}
	return have
}
