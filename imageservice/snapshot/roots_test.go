package snapshot

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRootFileSystemsAreSpread(t *testing.T) {
	root := t.TempDir()
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skipf("%s is on no file system of the ext family", root)
	}
	for range 2 { // the second time finds the directory
		if _, err := OpenRoots(root, nil, nil); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(root, "containers"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err != nil || flags&topDir == 0 {
			t.Errorf("flags %#x, err %v: not marked as the top of hierarchies", flags, err)
		}
	}
}
