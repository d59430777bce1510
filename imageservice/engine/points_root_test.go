//go:build root

package engine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// TestPointsInAnImage mounts images on a layer of mount points: whatever the image has, or has deleted, wins.
func TestPointsInAnImage(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		e := open(t, Config{})
		id := load(t, e,
			[]imagetest.File{
				{Name: "etc/", Mode: 0o700, UID: 3}, {Name: "etc/hosts", Body: "the image's"}, {Name: "deleted/"}, {Name: "deleted/x", Body: "x"},
				{Name: "file", Body: "no directory"}, {Name: "run/"}, {Name: "var/"}, {Name: "var/run", Link: "../run", Type: '2'},
				{Name: "opaque/"}, {Name: "opaque/old", Body: "x"}, {Name: "dir/"},
			},
			[]imagetest.File{{Name: ".wh.deleted"}, {Name: "opaque/.wh..wh..opq"}, {Name: "opaque/new", Body: "new"}},
		)
		points := []imageservice.Point{
			{Path: "/etc/hosts", Dir: true}, {Path: "/etc/hostname"}, {Path: "/deleted/y", Dir: true}, {Path: "/file/z", Dir: true},
			{Path: "/var/run/secrets", Dir: true}, {Path: "/opaque/point", Dir: true}, {Path: "/dir"}, {Path: "/new/a/b", Dir: true},
		}
		mounts, err := e.Prepare(t.Context(), "c", id, points)
		if err != nil || pointsBelow(t, mounts[0]) == "" {
			t.Fatal(mounts, err)
		}
		root := mount(t, mounts)
		for name, want := range map[string]uint32{
			"etc": unix.S_IFDIR | 0o700, "etc/hosts": unix.S_IFREG | 0o644, "etc/hostname": unix.S_IFREG | 0o644,
			"deleted": 0, "file": unix.S_IFREG | 0o644, "var/run": unix.S_IFLNK | 0o777, "run/secrets": 0,
			"opaque/new": unix.S_IFREG | 0o644, "opaque/point": 0, "dir": unix.S_IFDIR | 0o755, "new": unix.S_IFDIR | 0o755, "new/a/b": unix.S_IFDIR | 0o755,
			"": unix.S_IFDIR | 0o755,
		} {
			var st unix.Stat_t
			err := unix.Lstat(filepath.Join(root, name), &st)
			if st.Mode != want || (err != nil) != (want == 0) {
				t.Errorf("/%s: mode %o, want %o; %v", name, st.Mode, want, err)
			}
		}
		if got := read(t, root, "etc/hosts"); got != "the image's" {
			t.Errorf("/etc/hosts: %q", got)
		}
		sameDevice(t, root)
		if u, err := e.Usage(t.Context(), "c"); err != nil || u.Inodes != 1 {
			t.Errorf("the writable layer takes %+v, %v", u, err)
		}
		if err := os.WriteFile(filepath.Join(root, "new/a/file"), nil, 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Remove(filepath.Join(root, "etc/hostname")); err != nil {
			t.Error(err)
		}
		again, err := e.Prepare(t.Context(), "other", id, points)
		if err != nil {
			t.Fatal(err)
		}
		if got := tree(t, mount(t, again)); strings.Contains(got, "new/a/file") || !strings.Contains(got, "etc/hostname") {
			t.Errorf("what one container does to a mount point another sees: %s", got)
		}
	})
}

// sameDevice: the overlay shows all its files with the one device number (and the inode numbers of the disk), as it does when all layers
// are on one file system.
func sameDevice(t *testing.T, root string) {
	t.Helper()
	numbers := map[uint64]bool{}
	for _, name := range []string{"", "etc", "etc/hosts", "etc/hostname", "new/a/b", "opaque/new"} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		numbers[fi.Sys().(*syscall.Stat_t).Dev] = true
	}
	if len(numbers) != 1 {
		t.Errorf("files with device numbers %v", numbers)
	}
}
