package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
	"github.com/skiff-node/skiff/imageservice/snapshot"
)

const (
	crashRoot = "SKIFF_TEST_CRASH_ROOT"
	crashRef  = "SKIFF_TEST_CRASH_REF"
)

// TestCrashChild is the process that TestKilledAtEveryStep kills: it pulls one image, makes a root file system on it, and
// removes another.
func TestCrashChild(t *testing.T) {
	root := os.Getenv(crashRoot)
	if root == "" {
		t.Skip("runs as a child of TestKilledAtEveryStep only")
	}
	e, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	img, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: os.Getenv(crashRef)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Prepare(t.Context(), "c", img.ID, usual); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// steps watches what happens to the files of a store.
type steps struct {
	fd   int
	dirs map[int32]string
	buf  []byte
}

func watchSteps(t *testing.T, root string) *steps {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	s := &steps{fd: fd, dirs: map[int32]string{}, buf: make([]byte, 64<<10)}
	t.Cleanup(func() { unix.Close(fd) })
	for _, dir := range []string{"blobs/sha256", "ingest", "l", "images", "trash", "containers"} {
		s.add(filepath.Join(root, dir))
	}
	return s
}

func (s *steps) add(dir string) {
	wd, err := unix.InotifyAddWatch(s.fd, dir, unix.IN_CREATE|unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_MODIFY|unix.IN_ATTRIB)
	if err == nil {
		s.dirs[int32(wd)] = dir
	}
}

// next waits for some steps and returns how many there were; layers that appear are watched too. It returns 0 when the
// process ended, which closes the pipe.
func (s *steps) next(ended int) int {
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(ended), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err == nil {
			break
		}
	}
	if fds[0].Revents == 0 {
		return 0
	}
	n, err := unix.Read(s.fd, s.buf)
	if err != nil {
		return 0
	}
	count := 0
	for b := s.buf[:n]; len(b) >= unix.SizeofInotifyEvent; count++ {
		wd := int32(binary.NativeEndian.Uint32(b))
		length := binary.NativeEndian.Uint32(b[12:])
		name := strings.TrimRight(string(b[16:16+length]), "\x00")
		if filepath.Base(s.dirs[wd]) == "l" {
			s.add(filepath.Join(s.dirs[wd], name))
		}
		b = b[16+length:]
	}
	return count
}

// crash runs the child on a store and kills it after that many steps; it returns how many there were.
func crash(t *testing.T, root, ref string, after int) int {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	watched := watchSteps(t, root)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashRoot+"="+root, crashRef+"="+ref)
	cmd.ExtraFiles = []*os.File{write} // closed when the process is gone
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	seen := 0
	for seen < after {
		n := watched.next(int(read.Fd()))
		if n == 0 {
			break
		}
		seen += n
	}
	if seen >= after {
		cmd.Process.Kill()
	}
	err = cmd.Wait()
	if seen < after && err != nil {
		t.Fatalf("the child failed: %v\n%s", err, out.Bytes())
	}
	return seen
}

// TestKilledAtEveryStep kills a process with SIGKILL as soon as the first, second, third … change to its store can be
// seen, while it pulls an image, makes a root file system and removes another image. Then the store opens, holds each image whole
// or not at all, mount points likewise, has no leftovers, and the pull succeeds.
func TestKilledAtEveryStep(t *testing.T) {
	s := serve(t, false)
	layers := [][]imagetest.File{
		{{Name: "etc/", Mode: 0o700}, {Name: "etc/a", Body: strings.Repeat("a", 100_000)}},
		{{Name: "etc/.wh.a", Body: ""}, {Name: "etc/b/c", Body: "c"}},
	}
	img := small(t, imagetest.Spec{Layers: layers})
	s.push(t, "x", "1", img)
	old := ociArchive(t, small(t, imagetest.Spec{Names: []string{"old"}, Layers: layers[:1]}))
	ref := s.addr + "/x:1"
	prepare := func() string {
		e := open(t, Config{})
		if _, err := e.Import(t.Context(), strings.NewReader(string(old))); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		return e.cfg.Root
	}
	total := crash(t, prepare(), ref, 1<<30)
	if total < 5 {
		t.Fatalf("only %d steps were seen", total)
	}
	// What is seen comes in lumps and a little late: more than one round hits more of what lies between.
	kills, whole := 30, 0
	if testing.Short() {
		kills = 10
	}
	for i := range kills {
		after := i%total + 1
		root := prepare()
		crash(t, root, ref, after)
		if recovered(t, root, ref, fmt.Sprintf("killed after %d of %d steps", after, total)) {
			whole++
		}
	}
	t.Logf("%d steps, the image was there after %d of %d kills", total, whole, kills)
}

// recovered checks a store whose process was killed and reports whether the image was in it.
func recovered(t *testing.T, root, ref, when string) (there bool) {
	t.Helper()
	e := open(t, Config{Root: root})
	defer e.Close()
	for _, r := range e.catalog.Records() {
		there = there || slices.Contains(r.Tags, ref)
		verify(t, e, r.ID.String(), when)
	}
	needed := map[string]bool{}
	for _, r := range e.catalog.Records() {
		for _, b := range r.Blobs() {
			needed[b.Digest.Encoded()] = true
		}
		for _, d := range r.Dirs() {
			needed[d] = true
		}
		needed[r.ID.Encoded()+".json"] = true
	}
	for _, root := range e.pool.roots {
		for _, d := range root.Layers {
			needed[d] = true
			if snapshot.IsPoints(d) && tree(t, e.pool.layers.Path(d)) != usualTree {
				t.Errorf("%s: mount points are torn: %s", when, tree(t, e.pool.layers.Path(d)))
			}
		}
	}
	for _, path := range withoutTemp(leftovers(t, root)) {
		if !needed[filepath.Base(path)] {
			t.Errorf("%s: %s is left over", when, path)
		}
	}
	verify(t, e, pull(t, e, ref).ID, when+", pulled again")
	if err := e.Remove(t.Context(), "old"); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if err := errors.Join(e.Remove(t.Context(), ref), e.Retain(t.Context(), nil)); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	if left := withoutTemp(leftovers(t, root)); len(left) != 0 {
		t.Errorf("%s: at the end left %v", when, left)
	}
	return there
}

// verify reads everything of an image.
func verify(t *testing.T, e *Engine, id, when string) {
	t.Helper()
	r, err := e.catalog.Find(id)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for _, b := range r.Blobs() {
		body, err := e.pool.content.Read(b.Digest, b.Size)
		if err != nil || int64(len(body)) != b.Size {
			t.Errorf("%s: blob %s: %v", when, b.Digest, err)
		}
	}
	a := filepath.Join(e.pool.layers.Path(r.Layers[0].Dir), "etc/a")
	if body, err := os.ReadFile(a); err != nil || len(body) != 100_000 {
		t.Errorf("%s: /etc/a of the first layer has %d bytes, %v", when, len(body), err)
	}
	if len(r.Layers) == 1 {
		return
	}
	top := e.pool.layers.Path(r.Layers[1].Dir)
	var etc, gone unix.Stat_t
	if err := unix.Lstat(filepath.Join(top, "etc"), &etc); err != nil || etc.Mode&0o777 != 0o700 {
		t.Errorf("%s: /etc of the second layer has mode %o, %v", when, etc.Mode, err)
	}
	if err := unix.Lstat(filepath.Join(top, "etc/a"), &gone); err != nil || gone.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Errorf("%s: the whiteout of the second layer: mode %o, %v", when, gone.Mode, err)
	}
	if body, err := os.ReadFile(filepath.Join(top, "etc/b/c")); err != nil || string(body) != "c" {
		t.Errorf("%s: /etc/b/c: %q, %v", when, body, err)
	}
}
