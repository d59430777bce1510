package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// mark is the first line of each file that skiff writes for its parts. A file that has lost it is the user's own and
// is never overwritten or removed.
const mark = "# Managed by skiff up. Delete this line to keep your own changes."

// WriteManaged writes a configuration file under skiff's mark, unless the user has made it his own.
func WriteManaged(file string, content []byte) error {
	old, err := os.ReadFile(file)
	if err == nil && !bytes.HasPrefix(old, []byte(mark)) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	content = append([]byte(mark+"\n"), content...)
	if bytes.Equal(old, content) {
		return nil
	}
	return WriteFile(file, content, 0o644)
}

// RemoveManaged removes a file if it bears skiff's mark.
func RemoveManaged(file string) error {
	old, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !bytes.HasPrefix(old, []byte(mark)) {
		return err
	}
	return os.Remove(file)
}

// CRIFile is the configuration file of the CRI server.
func CRIFile(c Config) string { return filepath.Join(c.Dirs.Config, "cri.toml") }

// KubeletFile is the KubeletConfiguration.
func KubeletFile(c Config) string { return filepath.Join(c.Dirs.Config, "kubelet.yaml") }

// ProxyFile is the KubeProxyConfiguration.
func ProxyFile(c Config) string { return filepath.Join(c.Dirs.Config, "proxy.yaml") }

// AdminKubeconfig is the administrator's kubeconfig.
func AdminKubeconfig(c Config) string { return filepath.Join(c.Dirs.Config, "admin.kubeconfig") }

// Elsewhere lists the managed files outside of skiff's own directories.
func Elsewhere(Config) []string { return []string{"/etc/crictl.yaml"} }

// CRICommand is the command line of the CRI server with further arguments. The binary lies beside this one, or on
// the PATH.
func CRICommand(c Config, args ...string) ([]string, error) {
	bin, err := Sibling("skiff-cri")
	if err != nil {
		return nil, err
	}
	return append(append([]string{bin}, args...), "--config", CRIFile(c)), nil
}

// Sibling finds another binary of skiff.
func Sibling(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if path := filepath.Join(filepath.Dir(self), name); executable(path) {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside %s nor on the PATH: install it there (make build makes all binaries)", name, self)
	}
	return path, nil
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// LinksDir is where the kubelet links container logs to, as log collectors expect.
func LinksDir(c Config) string { return filepath.Join(filepath.Dir(c.Dirs.Pods), "containers") }

// LinksDirStamp is a file that exists when skiff has made LinksDir.
func LinksDirStamp(c Config) string { return filepath.Join(c.Dirs.State, "made-log-containers") }
