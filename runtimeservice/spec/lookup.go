package spec

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/apparmor"
	"github.com/skiff-node/skiff/runtimeservice/rootfs"
)

// The functions of this file look up on the host what Build needs.

// Volumes finds the source of each mount: links are followed, a missing host path is an error. imageDir says where
// the image volume with that number is mounted.
func Volumes(c runtimeservice.ContainerConfig, imageDir func(n int) string) ([]Volume, error) {
	var out []Volume
	images := 0
	for i, m := range c.Mounts {
		v := Volume{Mount: m}
		var err error
		if m.Image != nil {
			v.Source, err = imageSource(imageDir(images), m.ImageSubPath)
			images++
		} else if v.Source, err = filepath.EvalSymlinks(m.HostPath); err != nil {
			err = invalid("config.mounts[%d].host_path: %v", i, err)
		}
		if err == nil {
			err = checkPropagation(v)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// imageSource is a directory or file inside an image volume, reached without leaving it.
func imageSource(dir, sub string) (string, error) {
	if sub == "" {
		return dir, nil
	}
	f, err := rootfs.Open(dir, sub)
	if err != nil {
		return "", fmt.Errorf("%w: image_sub_path: %w", runtimeservice.ErrImageVolume, err)
	}
	defer f.Close()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", fmt.Errorf("%w: image_sub_path: %w", runtimeservice.ErrImageVolume, err)
	}
	return path, nil
}

// checkPropagation: mounts travel only where the host's mount is shared (or, towards the container, a slave).
func checkPropagation(v Volume) error {
	if v.Propagation != runtimeservice.PropagationBidirectional && v.Propagation != runtimeservice.PropagationHostToContainer {
		return nil
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read the mount table: %w", err)
	}
	at, optional := mountOf(string(table), v.Source)
	shared, slave := strings.Contains(optional, "shared:"), strings.Contains(optional, "master:")
	if shared || (slave && v.Propagation == runtimeservice.PropagationHostToContainer) {
		return nil
	}
	return invalid("mount %s: propagation %s needs a shared mount, but %s is a private one (mount --make-rshared %s)",
		v.Source, v.Propagation, at, at)
}

// mountOf finds the mount that a path lies on, the last of those with the longest mount point, and its optional
// fields (proc_pid_mountinfo(5)).
func mountOf(table, path string) (point, optional string) {
	scanner := bufio.NewScanner(strings.NewReader(table))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 7 {
			continue
		}
		at := fields[4]
		inside := path == at || at == "/" || strings.HasPrefix(path, at+"/")
		if !inside || len(at) < len(point) {
			continue
		}
		point, optional = at, ""
		for _, f := range fields[6:] {
			if f == "-" {
				break
			}
			optional += f + " "
		}
	}
	return point, optional
}

// Devices finds the devices that were asked for; a directory stands for all devices below it. A privileged container
// gets all of the host's, unless its handler says otherwise.
func Devices(c runtimeservice.ContainerConfig, noHostDevices bool) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	if c.Security.Privileged && !noHostDevices {
		all, err := devicesBelow("/dev", "/dev")
		if err != nil {
			return nil, err
		}
		out = all
	}
	for i, d := range c.Devices {
		source, err := filepath.EvalSymlinks(d.HostPath)
		if err != nil {
			return nil, invalid("config.devices[%d].host_path: %v", i, err)
		}
		found, err := devicesBelow(source, d.ContainerPath)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, invalid("config.devices[%d].host_path: %s is no device", i, d.HostPath)
		}
		out = append(out, found...)
	}
	return out, nil
}

// notDevices are directories of /dev that a container has of its own.
var notDevices = map[string]bool{
	"/dev/pts": true, "/dev/shm": true, "/dev/fd": true, "/dev/mqueue": true, "/dev/console": true, "/dev/.lxc": true,
}

func devicesBelow(source, target string) ([]specs.LinuxDevice, error) {
	var out []specs.LinuxDevice
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		if notDevices[path] {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		device, ok := device(path, target+strings.TrimPrefix(path, source))
		if ok {
			out = append(out, device)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for devices: %w", err)
	}
	return out, nil
}

func device(path, target string) (specs.LinuxDevice, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return specs.LinuxDevice{}, false
	}
	kind, ok := map[uint32]string{unix.S_IFBLK: "b", unix.S_IFCHR: "c"}[st.Mode&unix.S_IFMT]
	mode := os.FileMode(st.Mode & 0o7777)
	return specs.LinuxDevice{
		Path: target, Type: kind, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: &mode, UID: &st.Uid, GID: &st.Gid,
	}, ok
}

// LoadProfiles reads the localhost profiles that are asked for; a relative path is below dir. An AppArmor profile must be
// in the kernel.
func LoadProfiles(s runtimeservice.ContainerSecurity, dir string) (Profiles, error) {
	if p := s.AppArmor; p != nil && p.Type == runtimeservice.ProfileLocalhost && apparmor.Enabled() {
		if loaded, err := apparmor.Loaded(p.Ref); err != nil || !loaded {
			return Profiles{}, errors.Join(invalid("security_context.apparmor.localhost_ref: profile %q is not loaded", p.Ref), err)
		}
	}
	if s.Seccomp == nil || s.Seccomp.Type != runtimeservice.ProfileLocalhost || s.Privileged {
		return Profiles{}, nil
	}
	path := s.Seccomp.Ref
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Profiles{}, invalid("security_context.seccomp.localhost_ref: %v", err)
	}
	return Profiles{Seccomp: text}, nil
}

// Relabel gives the files of the sandbox, and the volumes that ask for it, the SELinux label of the container's files.
func Relabel(in Input) error {
	_, label := SELinuxLabels(in.Sandbox.Security.SELinux, in.Config.Security, in.Host)
	if label == "" {
		return nil
	}
	paths := []string{in.Files.Hosts, in.Files.Hostname, in.Files.ResolvConf}
	for _, v := range in.Volumes {
		if v.Relabel && v.Image == nil {
			paths = append(paths, v.Source)
		}
	}
	for _, path := range paths {
		if err := relabel(path, label); err != nil {
			return fmt.Errorf("relabel %s: %w", path, err)
		}
	}
	return nil
}

func relabel(path, label string) error {
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		err = unix.Lsetxattr(path, "security.selinux", []byte(label), 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOENT) {
			return nil // a file system without labels has one for all its files
		}
		return err
	})
}
