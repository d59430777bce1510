package apart

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func flagsOf(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

// onExt skips where the mark does not exist.
func onExt(t *testing.T, dir string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skipf("%s is on no file system of the ext family", dir)
	}
}

func TestMakeMarksDirectory(t *testing.T) {
	root := t.TempDir()
	onExt(t, root)
	dir := filepath.Join(root, "a", "pods")
	for range 2 { // the second time it is there
		if err := Make(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if flagsOf(t, dir)&topDir == 0 {
			t.Fatal("the directory is not marked")
		}
	}
	if flagsOf(t, filepath.Dir(dir))&topDir != 0 {
		t.Error("its parent is marked too")
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, err %v", info.Mode(), err)
	}
}

func TestMakeMarksFormerDirectoryAndKeepsOtherFlags(t *testing.T) {
	dir := t.TempDir()
	onExt(t, dir)
	before := flagsOf(t, dir)
	if err := Make(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if got, want := flagsOf(t, dir), before|topDir; got != want {
		t.Errorf("flags %#x, want %#x", got, want)
	}
}

func TestMakeWhereNoMarkCanBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Make(filepath.Join(file, "pods"), 0o750); err == nil {
		t.Error("made a directory below a file")
	}
	if err := Make("/dev/shm", 0o755); err != nil { // in memory: no such mark, and no error
		t.Error(err)
	}
}
