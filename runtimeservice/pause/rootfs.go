package pause

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Root makes the root file system that all pause processes share, the program and two mount points, and returns
// its path. It may be called at the same time by many.
func Root(root string) (string, error) {
	for _, dir := range []string{"proc", "dev"} {
		// Root of a user namespace opens them as anybody does.
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", fmt.Errorf("make the pause process's root: %w", err)
		}
	}
	text, err := Program(runtime.GOARCH)
	if err != nil {
		return "", err
	}
	program := filepath.Join(root, "pause")
	if have, err := os.ReadFile(program); err == nil && string(have) == string(text) {
		return root, nil
	}
	temp, err := os.CreateTemp(root, ".pause-*")
	if err != nil {
		return "", fmt.Errorf("write the pause program: %w", err)
	}
	defer temp.Close()
	if _, err := temp.Write(text); err != nil {
		return "", fmt.Errorf("write the pause program: %w", err)
	}
	if err := temp.Chmod(0o755); err != nil {
		return "", fmt.Errorf("write the pause program: %w", err)
	}
	if err := os.Rename(temp.Name(), program); err != nil {
		return "", fmt.Errorf("write the pause program: %w", err)
	}
	return root, nil
}

// Spec is the specification of a pause process: nobody, without rights, in a PID namespace of its own.
func Spec(root, cgroup string) *specs.Spec {
	return &specs.Spec{
		Version: "1.3.0",
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{
			Args: []string{"/pause"}, Cwd: "/", User: specs.User{UID: 65535, GID: 65535}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}
