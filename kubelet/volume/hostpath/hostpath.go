// Package hostpath is the volume kind hostPath: a file or directory of the node, with the checks of its type field.
package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-node/skiff/kubelet/volume"
	v1 "k8s.io/api/core/v1"
)

// Kind sets up hostPath volumes.
type Kind struct{}

// Name implements volume.Kind.
func (Kind) Name() string { return "host-path" }

// Handles implements volume.Kind.
func (Kind) Handles(src *v1.VolumeSource) bool { return src.HostPath != nil }

// HandlesPersistent implements volume.Persistent.
func (Kind) HandlesPersistent(src *v1.PersistentVolumeSource) bool { return src.HostPath != nil }

// Setup implements volume.Kind. The path is the host's; the volume's own directory is not used.
func (Kind) Setup(_ context.Context, req volume.Request) (volume.Place, error) {
	src, place := req.Volume.HostPath, volume.Place{}
	if c := req.Claimed; c != nil {
		src = c.Volume.Spec.HostPath
		place.ReadOnly = c.ReadOnly
		if c.Block() {
			return place, fmt.Errorf("a hostPath persistent volume cannot have volumeMode Block: %w", volume.ErrUnsupported)
		}
	}
	place.Path = src.Path
	if !filepath.IsAbs(src.Path) || slices.Contains(strings.Split(src.Path, "/"), "..") {
		return place, fmt.Errorf("invalid HostPath `%s`: must be absolute and without \"..\"", src.Path)
	}
	if src.Type == nil || *src.Type == v1.HostPathUnset {
		return place, nil
	}
	return place, check(src.Path, *src.Type)
}

// check makes what an …OrCreate type asks for and compares what is there with the type.
func check(path string, kind v1.HostPathType) error {
	expected, known := words[kind]
	if !known {
		return fmt.Errorf("%s is an invalid volume type", kind)
	}
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
		return fmt.Errorf("hostPath type check failed, %s is not a %s, unable to determine its type: %w", path, expected, err)
	}
	if got := typeOf(info.Mode()); words[got] != expected {
		return fmt.Errorf("hostPath type check failed: %s is not a %s, it's a %s", path, expected, got)
	}
	return nil
}

// typeOf is the type of what has this mode, in the words of the API.
func typeOf(mode fs.FileMode) v1.HostPathType {
	switch {
	case mode.IsRegular():
		return v1.HostPathFile
	case mode.IsDir():
		return v1.HostPathDirectory
	case mode&fs.ModeSocket != 0:
		return v1.HostPathSocket
	case mode&fs.ModeCharDevice != 0:
		return v1.HostPathCharDev
	case mode&fs.ModeDevice != 0:
		return v1.HostPathBlockDev
	}
	return v1.HostPathType(mode.Type().String())
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
