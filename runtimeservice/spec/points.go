package spec

import (
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// Points looks up which mount points the root file system needs for the mounts that Build lists. What can only be told
// once the root file system is there is not among them (a path inside an image volume), nor is what others add to the
// specification later: base specifications, CDI and NRI.
func Points(c runtimeservice.ContainerConfig, files Files) ([]imageservice.Point, error) {
	in := Input{Config: c, Files: files}
	for _, m := range c.Mounts {
		source := m.HostPath
		switch {
		case m.Image != nil && m.ImageSubPath == "":
			source = "/" // as much a directory as the root of an image
		case m.Image != nil:
			source = ""
		}
		in.Volumes = append(in.Volumes, Volume{Mount: m, Source: source})
	}
	s := &specs.Spec{Linux: &specs.Linux{}}
	if err := setMounts(s, in); err != nil {
		return nil, err
	}
	return pointsOf(s.Mounts, func(source string) (dir, known bool) {
		fi, err := os.Stat(source)
		return err == nil && fi.IsDir(), err == nil
	}), nil
}

// pointsOf are the places of the mounts that lie in the root file system itself, not in what another mount brings. A bind
// mount wants a place of the kind of its source, any other wants a directory. A mount whose place is in doubt is left out,
// and the runtime sees to it: one with an unknown source, and one that a link may lead elsewhere on the way back (..).
func pointsOf(mounts []specs.Mount, kind func(source string) (dir, known bool)) []imageservice.Point {
	var out []imageservice.Point
	for i, m := range mounts {
		at := path.Clean(m.Destination)
		back := slices.Contains(strings.Split(m.Destination, "/"), "..")
		if !path.IsAbs(at) || at == "/" || back || covered(i, mounts) {
			continue
		}
		dir, known := true, true
		if m.Type == "bind" {
			dir, known = kind(m.Source)
		}
		if known {
			out = append(out, imageservice.Point{Path: at, Dir: dir})
		}
	}
	return out
}

// covered reports whether the mount with that index lies at or below the place of another.
func covered(i int, mounts []specs.Mount) bool {
	at := path.Clean(mounts[i].Destination)
	for j, m := range mounts {
		above := path.Clean(m.Destination)
		if j != i && (at == above || strings.HasPrefix(at, strings.TrimSuffix(above, "/")+"/")) {
			return true
		}
	}
	return false
}
