package spec

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// TestPointsOf: sources that begin with /d are directories, with /f files, and others are not there.
func TestPointsOf(t *testing.T) {
	bind := func(at, source string) specs.Mount { return specs.Mount{Destination: at, Type: "bind", Source: source} }
	dir := func(at string) imageservice.Point { return imageservice.Point{Path: at, Dir: true} }
	file := func(at string) imageservice.Point { return imageservice.Point{Path: at} }
	for name, tc := range map[string]struct {
		mounts []specs.Mount
		want   []imageservice.Point
	}{
		"none":             {nil, nil},
		"file systems":     {[]specs.Mount{{Destination: "/proc", Type: "proc"}, {Destination: "/dev", Type: "tmpfs"}}, []imageservice.Point{dir("/proc"), dir("/dev")}},
		"kinds":            {[]specs.Mount{bind("/a/b", "/d"), bind("/etc/hosts", "/f")}, []imageservice.Point{dir("/a/b"), file("/etc/hosts")}},
		"below another":    {[]specs.Mount{{Destination: "/dev", Type: "tmpfs"}, bind("/dev/shm", "/d"), bind("/dev/log", "/f"), bind("/devices", "/d")}, []imageservice.Point{dir("/dev"), dir("/devices")}},
		"above another":    {[]specs.Mount{bind("/etc/hosts", "/f"), bind("/etc", "/d")}, []imageservice.Point{dir("/etc")}},
		"below a file":     {[]specs.Mount{bind("/a", "/f"), bind("/a/b", "/d")}, []imageservice.Point{file("/a")}},
		"below one unsure": {[]specs.Mount{bind("/a", "/?"), bind("/a/b", "/d")}, nil},
		"twice":            {[]specs.Mount{bind("/a", "/d"), bind("/a/", "/f"), bind("/b", "/d")}, []imageservice.Point{dir("/b")}},
		"a slash too many": {[]specs.Mount{bind("/a//b/", "/d")}, []imageservice.Point{dir("/a/b")}},
		"a way back":       {[]specs.Mount{bind("/a/../b", "/d"), bind("/a/..b", "/d")}, []imageservice.Point{dir("/a/..b")}},
		"the root":         {[]specs.Mount{bind("/", "/d")}, nil},
		"relative":         {[]specs.Mount{bind("a", "/d"), bind("", "/d")}, nil},
		"no source":        {[]specs.Mount{bind("/a", "/?")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := pointsOf(tc.mounts, func(source string) (dir, known bool) { return source == "/d", source != "/?" })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPoints: the places of the mounts of an ordinary container, as Build lists them.
func TestPoints(t *testing.T) {
	host := t.TempDir()
	file := filepath.Join(host, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(host, "link")); err != nil {
		t.Fatal(err)
	}
	files := Files{Hosts: file, Hostname: file, ResolvConf: file, Shm: host}
	image := &runtimeservice.Image{Ref: "busybox"}
	got, err := Points(runtimeservice.ContainerConfig{Mounts: []runtimeservice.Mount{
		{ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", HostPath: host},
		{ContainerPath: "/etc/hosts", HostPath: filepath.Join(host, "link")},
		{ContainerPath: "/dev/termination-log", HostPath: file},
		{ContainerPath: "/image", Image: image},
		{ContainerPath: "/inside", Image: image, ImageSubPath: "a"},
		{ContainerPath: "/gone", HostPath: filepath.Join(host, "gone")},
	}}, files)
	want := []imageservice.Point{
		{Path: "/proc", Dir: true}, {Path: "/dev", Dir: true}, {Path: "/sys", Dir: true}, {Path: "/etc/hostname"}, {Path: "/etc/resolv.conf"},
		{Path: "/image", Dir: true}, {Path: "/etc/hosts"}, {Path: "/var/run/secrets/kubernetes.io/serviceaccount", Dir: true},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}
