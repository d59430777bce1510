//go:build root

package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// inNamespace runs the test on a thread with a mount namespace of its own, which dies with it.
func inNamespace(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Errorf("make mounts private: %v", err)
			return
		}
		body(t)
	}()
	<-done
}

// mount does what the mounts say, as the runtime will.
func mount(t *testing.T, mounts []imageservice.Mount) string {
	t.Helper()
	target := t.TempDir()
	for _, m := range mounts {
		var data []string
		var flags uintptr
		for _, o := range m.Options {
			switch o {
			case "ro":
				flags |= unix.MS_RDONLY
			case "rw":
			case "rbind":
				flags |= unix.MS_BIND | unix.MS_REC
			default:
				data = append(data, o)
			}
		}
		if err := unix.Mount(m.Source, target, m.Type, flags, strings.Join(data, ",")); err != nil {
			t.Fatalf("mount %+v: %v", m, err)
		}
		if flags&unix.MS_BIND != 0 && flags&unix.MS_RDONLY != 0 {
			if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return target
}

// load imports an image of those layers and returns its id.
func load(t *testing.T, e *Engine, layers ...[]imagetest.File) string {
	t.Helper()
	got, err := e.Import(t.Context(), bytes.NewReader(ociArchive(t, build(t, imagetest.Spec{Layers: layers}))))
	if err != nil {
		t.Fatal(err)
	}
	return got[0].ID
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if errors.Is(err, os.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRootFileSystem(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		e := open(t, Config{})
		id := load(t, e,
			[]imagetest.File{
				{Name: "keep", Body: "below"}, {Name: "replaced", Body: "below"}, {Name: "removed", Body: "below"},
				{Name: "opaque/"}, {Name: "opaque/old", Body: "below"}, {Name: "reborn/"}, {Name: "reborn/old", Body: "below"},
				{Name: "late/"}, {Name: "late/old", Body: "below"},
				{Name: "tmp/", Mode: 0o1777}, {Name: "owned/", UID: 5, GID: 6, Mode: 0o700, Xattrs: map[string]string{"user.mark": "m"}}, {Name: "owned/deep/", UID: 7, Mode: 0o750},
				{Name: "file-to-dir", Body: "below"}, {Name: "dir-to-file/"}, {Name: "dir-to-file/x", Body: "below"},
				{Name: "hard", Body: "linked"}, {Name: "hard2", Link: "hard", Type: tar.TypeLink},
				{Name: "bin/"}, {Name: "bin/su", Body: "x", Mode: 0o4755}, {Name: "link", Link: "keep", Type: tar.TypeSymlink},
			},
			[]imagetest.File{
				{Name: "replaced", Body: "above"}, {Name: ".wh.removed"},
				{Name: "opaque/.wh..wh..opq"}, {Name: "opaque/new", Body: "above"},
				{Name: ".wh.reborn"}, {Name: "reborn/"}, {Name: "reborn/new", Body: "above"},
				{Name: "late/new", Body: "above"}, {Name: ".wh.late"}, // the whiteout is about the layer below only
				{Name: "tmp/f", Body: "above"}, {Name: "owned/deep/f", Body: "above"}, // no entries for the directories
				{Name: "file-to-dir/"}, {Name: "file-to-dir/y", Body: "above"}, {Name: "dir-to-file", Body: "above"},
				{Name: ".wh..wh.plnk/1.2", Body: "aufs"},
			},
		)
		mounts, err := e.Prepare(t.Context(), "c", id, nil)
		if err != nil {
			t.Fatal(err)
		}
		root := mount(t, mounts)
		for name, want := range map[string]string{
			"keep": "below", "replaced": "above", "removed": "(none)", "opaque/old": "(none)", "opaque/new": "above",
			"reborn/old": "(none)", "reborn/new": "above", "late/old": "(none)", "late/new": "above",
			"tmp/f": "above", "owned/deep/f": "above",
			"file-to-dir/y": "above", "dir-to-file": "above", "hard2": "linked", "link": "below",
		} {
			if got := read(t, root, name); got != want {
				t.Errorf("%s holds %q, want %q", name, got, want)
			}
		}
		checkAttributes(t, root)
		writeTo(t, e, root, id)
	})
}

func checkAttributes(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string]struct{ mode, uid, gid uint32 }{
		"": {0o755, 0, 0}, "tmp": {0o1777, 0, 0}, "owned": {0o700, 5, 6}, "owned/deep": {0o750, 7, 0}, "bin/su": {0o4755, 0, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode&0o7777 != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("/%s has mode %o, owner %d:%d; want %o, %d:%d", name, st.Mode&0o7777, st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
	}
	value := make([]byte, 8)
	if n, err := unix.Lgetxattr(filepath.Join(root, "owned"), "user.mark", value); err != nil || string(value[:n]) != "m" {
		t.Errorf("attribute of /owned: %q, %v", value[:max(n, 0)], err)
	}
}

// writeTo writes into a mounted root file system and checks that nobody else sees it, and that it can be mounted again.
func writeTo(t *testing.T, e *Engine, root, id string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, "keep"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := e.View(t.Context(), "v", id)
	if err != nil {
		t.Fatal(err)
	}
	view := mount(t, other)
	if got := read(t, view, "keep"); got != "below" {
		t.Errorf("another root file system sees %q", got)
	}
	if err := os.WriteFile(filepath.Join(view, "x"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a view can be written: %v", err)
	}
	u, err := e.Usage(t.Context(), "c")
	if err != nil || u.Bytes < 4 || u.Inodes < 2 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if err := unix.Unmount(root, 0); err != nil {
		t.Fatal(err)
	}
	again, err := e.Prepare(t.Context(), "c", id, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, mount(t, again), "keep"); got != "mine" {
		t.Errorf("after mounting again it holds %q", got)
	}
}

func TestSmallRootFileSystems(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		e := open(t, Config{})
		one := load(t, e, []imagetest.File{{Name: "a", Body: "a"}})
		none := load(t, e)
		for key, id := range map[string]string{"one": one, "none": none} {
			want := map[string]string{one: "a", none: "(none)"}[id]
			rw, err := e.Prepare(t.Context(), key, id, nil)
			if err != nil {
				t.Fatal(err)
			}
			root := mount(t, rw)
			if err := os.WriteFile(filepath.Join(root, "w"), []byte("w"), 0o644); err != nil || read(t, root, "a") != want {
				t.Errorf("%s: %v, a is %q", key, err, read(t, root, "a"))
			}
			ro, err := e.View(t.Context(), key+"-view", id)
			if err != nil {
				t.Fatal(err)
			}
			view := mount(t, ro)
			if err := os.WriteFile(filepath.Join(view, "w"), nil, 0o644); !errors.Is(err, syscall.EROFS) || read(t, view, "a") != want {
				t.Errorf("%s: writing into the view: %v, a is %q", key, err, read(t, view, "a"))
			}
		}
	})
}

// TestArtifactVolume mounts an artifact as an image volume is mounted.
func TestArtifactVolume(t *testing.T) {
	s := serve(t, false)
	s.push(t, "a", "1", artifact(t, imagetest.File{Name: "model/weights", Body: "w"}))
	inNamespace(t, func(t *testing.T) {
		e := open(t, Config{})
		img := pull(t, e, s.addr+"/a:1")
		mounts, err := e.View(t.Context(), "v", img.ID)
		if err != nil {
			t.Fatal(err)
		}
		root := mount(t, mounts)
		if got := read(t, root, "model/weights"); got != "w" {
			t.Errorf("the file holds %q", got)
		}
		for name, err := range map[string]error{
			"new file": os.WriteFile(filepath.Join(root, "x"), nil, 0o644),
			"change":   os.WriteFile(filepath.Join(root, "model/weights"), []byte("x"), 0o644),
			"mode":     os.Chmod(filepath.Join(root, "model/weights"), 0o777),
		} {
			if !errors.Is(err, syscall.EROFS) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestManyLayers mounts as many layers as images may have: the options must fit into one page.
func TestManyLayers(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		e := open(t, Config{})
		var layers [][]imagetest.File
		for i := range 80 { // the temporary directory of the test has a longer name than the store will have
			layers = append(layers, []imagetest.File{{Name: "n", Body: strings.Repeat("x", i)}})
		}
		mounts, err := e.Prepare(t.Context(), strings.Repeat("f", 64), load(t, e, layers...), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(strings.Join(mounts[0].Options, ",")); n > 4095 {
			t.Skipf("the options of this test's long directory have %d bytes", n)
		}
		if got := read(t, mount(t, mounts), "n"); len(got) != 79 {
			t.Errorf("the topmost layer is not on top: %d", len(got))
		}
	})
}

// reexec runs the test again in a process with a mount namespace of its own: pulls work in many threads.
func reexec(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	const marker = "SKIFF_TEST_IN_NAMESPACE"
	if os.Getenv(marker) != "" {
		body(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestFullDisk pulls onto a file system that is too small, and deletes from it when it is full.
func TestFullDisk(t *testing.T) {
	reexec(t, func(t *testing.T) {
		disk := t.TempDir()
		if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
		s := serve(t, false)
		e := open(t, Config{Root: filepath.Join(disk, "images")})
		fits := small(t, imagetest.Spec{})
		large := small(t, imagetest.Spec{Compression: "none", Layers: [][]imagetest.File{
			{{Name: "a", Body: strings.Repeat("a", 1<<20)}}, {{Name: "b", Body: strings.Repeat("b", 3<<20)}},
		}})
		s.push(t, "fits", "1", fits)
		s.push(t, "large", "1", large)
		pull(t, e, s.addr+"/fits:1")
		if _, err := e.Prepare(t.Context(), "running", fits.ID.String(), nil); err != nil {
			t.Fatal(err)
		}
		before := leftovers(t, e.cfg.Root)
		_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/large:1"})
		if !errors.Is(err, imageservice.ErrNoSpace) {
			t.Errorf("pull: %v", err)
		}
		_, err = e.Import(t.Context(), bytes.NewReader(ociArchive(t, large)))
		if !errors.Is(err, imageservice.ErrNoSpace) {
			t.Errorf("import: %v", err)
		}
		if after := leftovers(t, e.cfg.Root); strings.Join(before, " ") != strings.Join(after, " ") {
			t.Errorf("before %v, after %v", before, after)
		}
		fill := filepath.Join(disk, "fill")
		if err := os.WriteFile(fill, make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		if _, err := e.Prepare(t.Context(), "c", fits.ID.String(), nil); !errors.Is(err, imageservice.ErrNoSpace) {
			t.Errorf("prepare: %v", err)
		}
		if err := e.Remove(t.Context(), "sha256:"+fits.ID.Encoded()); err != nil {
			t.Errorf("remove on a full disk: %v", err)
		}
		if err := e.Release(t.Context(), "running"); err != nil {
			t.Errorf("release on a full disk: %v", err)
		}
		e = reopen(t, e) // opens on a full disk, and waits for the deleting
		if left := leftovers(t, e.cfg.Root); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	})
}
