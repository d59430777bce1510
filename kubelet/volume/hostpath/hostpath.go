// Package hostpath is the volume kind hostPath: a file or directory of the node, with the checks of its type field.
package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skiff-node/skiff/kubelet/volume"
	v1 "k8s.io/api/core/v1"
)

// Kind sets up hostPath volumes.
type Kind struct{}

// Name implements volume.Kind.
func (Kind) Name() string { return "host-path" }

// Handles implements volume.Kind.
func (Kind) Handles(src *v1.VolumeSource) bool { return src.HostPath != nil }

// Setup implements volume.Kind. The path is the host's; the volume's own directory is not used.
func (Kind) Setup(_ context.Context, req volume.Request) (string, error) {
	src := req.Volume.HostPath
	if !filepath.IsAbs(src.Path) {
		return "", fmt.Errorf("hostPath %q must be absolute", src.Path)
	}
	if src.Type == nil || *src.Type == v1.HostPathUnset {
		return src.Path, nil
	}
	return src.Path, check(src.Path, *src.Type)
}

// check makes what an …OrCreate type asks for and compares what is there with the type.
func check(path string, kind v1.HostPathType) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		switch kind {
		case v1.HostPathDirectoryOrCreate:
			return os.MkdirAll(path, 0o755)
		case v1.HostPathFileOrCreate:
			return create(path)
		}
	}
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	mode := info.Mode()
	var ok bool
	switch kind {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case v1.HostPathSocket:
		ok = mode&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		ok = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	default:
		return fmt.Errorf("hostPath type %q is unknown", kind)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, words[kind])
	}
	return nil
}

var words = map[v1.HostPathType]string{
	v1.HostPathDirectory: "directory", v1.HostPathDirectoryOrCreate: "directory",
	v1.HostPathFile: "file", v1.HostPathFileOrCreate: "file",
	v1.HostPathSocket: "socket file", v1.HostPathCharDev: "character device", v1.HostPathBlockDev: "block device",
}

// create makes an empty file. Its directory must exist, as upstream documents.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("make the file of a hostPath: %w", err)
	}
	return f.Close()
}
