package unpack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

func layerTar(t testing.TB, files ...imagetest.File) []byte {
	t.Helper()
	b, err := imagetest.Tar(files)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpackInto unpacks files into a directory inside a fresh one and returns it.
func unpackInto(t testing.TB, files ...imagetest.File) (dir string, res Result, err error) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "l", "1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := layerTar(t, files...)
	res, err = Layer(t.Context(), dir, bytes.NewReader(b), digest.FromBytes(b))
	return dir, res, err
}

// outside lists everything beside the layer's directory.
func outside(t testing.TB, dir string) []string {
	t.Helper()
	base := filepath.Dir(filepath.Dir(dir))
	var found []string
	err := filepath.WalkDir(base, func(path string, d os.DirEntry, err error) error {
		if path == dir {
			return filepath.SkipDir
		}
		found = append(found, strings.TrimPrefix(path, base))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(found)
	return found
}

// TestHostile holds the shapes of known attacks against layer unpackers: nothing may appear, change or vanish
// outside of the layer's directory. Some are refused, others land harmlessly inside.
func TestHostile(t *testing.T) {
	up := strings.Repeat("../", 12)
	for name, files := range map[string][]imagetest.File{
		"absolute":               {{Name: "/etc/evil", Body: "x"}},
		"dotdot":                 {{Name: up + "etc/evil", Body: "x"}, {Name: "a/../../../evil", Body: "x"}},
		"dotdot directory":       {{Name: up + "evil/"}},
		"dotdot whiteout":        {{Name: up + ".wh.canary"}, {Name: "../../.wh.canary"}},
		"whiteout of dotdot":     {{Name: "a/"}, {Name: "a/.wh..."}, {Name: "a/.wh.."}},
		"opaque above":           {{Name: "../../.wh..wh..opq"}},
		"symlink absolute":       {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/evil", Body: "x"}},
		"symlink dotdot":         {{Name: "a", Type: tar.TypeSymlink, Link: "../.."}, {Name: "a/evil", Body: "x"}, {Name: "a/canary", Body: "x"}},
		"symlink chain":          {{Name: "a", Type: tar.TypeSymlink, Link: "b"}, {Name: "b", Type: tar.TypeSymlink, Link: "../.."}, {Name: "a/canary", Body: "x"}},
		"symlink then whiteout":  {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/.wh.canary"}},
		"symlink then opaque":    {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/.wh..wh..opq"}},
		"symlink replaced":       {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR/canary"}, {Name: "a", Body: "x"}},
		"symlink as directory":   {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/", Mode: 0o777}},
		"hardlink absolute":      {{Name: "a", Type: tar.TypeLink, Link: "CANARYDIR/canary"}, {Name: "a", Body: "x"}},
		"hardlink dotdot":        {{Name: "a", Type: tar.TypeLink, Link: "../../canary"}},
		"hardlink to dotdot":     {{Name: "a", Type: tar.TypeLink, Link: ".."}},
		"hardlink by symlink":    {{Name: "s", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "h", Type: tar.TypeLink, Link: "s/canary"}, {Name: "h", Body: "x"}},
		"hardlinked symlink":     {{Name: "s", Type: tar.TypeSymlink, Link: "CANARYDIR/canary"}, {Name: "h", Type: tar.TypeLink, Link: "s"}, {Name: "h", Body: "x", Mode: 0o777, UID: 5}},
		"implied by symlink":     {{Name: "a/", Mode: 0o700}, {Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/b/c", Body: "x"}},
		"mode through symlink":   {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR/canary", Mode: 0o777, UID: 5, Xattrs: map[string]string{"user.x": "y"}}},
		"the root itself":        {{Name: "./", Mode: 0o777, UID: 5}, {Name: ".", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "/", Type: tar.TypeSymlink, Link: "CANARYDIR"}},
		"the root whited out":    {{Name: ".wh..wh..opq"}, {Name: ".wh."}},
		"overlay redirect":       {{Name: "d/", Xattrs: map[string]string{"trusted.overlay.redirect": "/../../x", "user.overlay.opaque": "y"}}},
		"parent is a file":       {{Name: "a", Body: "x"}, {Name: "a/b", Body: "x"}},
		"whiteout through a dir": {{Name: "d/"}, {Name: "d/../../../.wh.canary"}},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			canary := filepath.Join(base, "canary")
			dir := filepath.Join(base, "l", "1")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(canary, []byte("alive"), 0o600)); err != nil {
				t.Fatal(err)
			}
			for i := range files {
				files[i].Link = strings.Replace(files[i].Link, "CANARYDIR", base, 1)
			}
			before := outside(t, dir)
			b := layerTar(t, files...)
			res, err := Layer(t.Context(), dir, bytes.NewReader(b), digest.FromBytes(b))
			if err == nil {
				err = Adopt(dir, res.Implied, []string{t.TempDir()})
			}
			t.Log("result:", err)
			if after := outside(t, dir); strings.Join(after, " ") != strings.Join(before, " ") {
				t.Errorf("outside there was %v and is %v", before, after)
			}
			var st unix.Stat_t
			if err := unix.Lstat(canary, &st); err != nil || st.Mode != unix.S_IFREG|0o600 || st.Uid != 0 || st.Nlink != 1 {
				t.Errorf("the canary was touched: %+v, %v", st, err)
			}
			if got, err := os.ReadFile(canary); err != nil || string(got) != "alive" {
				t.Errorf("the canary says %q, %v", got, err)
			}
			if n, err := unix.Llistxattr(base, nil); err != nil || n != 0 {
				t.Errorf("the directory outside has extended attributes: %d, %v", n, err)
			}
			if err := unix.Lstat(dir, &st); err != nil || st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 {
				t.Errorf("the root of the layer was changed: %o, %v", st.Mode, err)
			}
		})
	}
}

func TestOverlayAttributesAreDropped(t *testing.T) {
	dir, _, err := unpackInto(t, imagetest.File{Name: "d/", Xattrs: map[string]string{
		"trusted.overlay.redirect": "/x", "trusted.overlay.opaque": "y", "user.overlay.redirect": "/x", "user.kept": "v",
	}})
	if err != nil {
		t.Fatal(err)
	}
	names := make([]byte, 1024)
	n, err := unix.Llistxattr(filepath.Join(dir, "d"), names)
	if err != nil || string(names[:n]) != "user.kept\x00" {
		t.Errorf("%q, %v", names[:n], err)
	}
}

func TestImplied(t *testing.T) {
	_, res, err := unpackInto(t,
		imagetest.File{Name: "a/b/c", Body: "x"}, imagetest.File{Name: "d/"}, imagetest.File{Name: "d/e/f", Body: "x"},
		imagetest.File{Name: "late/x", Body: "x"}, imagetest.File{Name: "late/"}, imagetest.File{Name: "a/b2/.wh.gone"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(res.Implied, " "); got != "a a/b d/e a/b2" {
		t.Errorf("implied %q", got)
	}
	if res.Bytes != 3*block || res.Inodes < 8 {
		t.Errorf("usage %+v", res)
	}
}

func TestAdopt(t *testing.T) {
	low, _, err := unpackInto(t, imagetest.File{Name: "a/", Mode: 0o700, UID: 3}, imagetest.File{Name: "a/b/", Mode: 0o1777}, imagetest.File{Name: "f", Body: "x"})
	if err != nil {
		t.Fatal(err)
	}
	mid, _, err := unpackInto(t, imagetest.File{Name: "a/", Mode: 0o711, GID: 4})
	if err != nil {
		t.Fatal(err)
	}
	top, res, err := unpackInto(t, imagetest.File{Name: "a/b/x", Body: "x"}, imagetest.File{Name: "f/x", Body: "x"}, imagetest.File{Name: "only/x", Body: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if err := Adopt(top, res.Implied, []string{mid, low}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct{ mode, uid, gid uint32 }{
		"a": {0o711, 0, 4}, "a/b": {0o1777, 0, 0}, "f": {0o755, 0, 0}, "only": {0o755, 0, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(top, name), &st); err != nil || st.Mode&0o7777 != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: %o %d:%d, %v", name, st.Mode&0o7777, st.Uid, st.Gid, err)
		}
	}
}

func TestDecompressAndDamage(t *testing.T) {
	plain := layerTar(t, imagetest.File{Name: "a", Body: strings.Repeat("body", 10000)})
	id := digest.FromBytes(plain)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(plain)
	w.Close()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zs := encoder.EncodeAll(plain, nil)
	flipped := bytes.Clone(z.Bytes())
	flipped[len(flipped)/2] ^= 0x10
	for name, tc := range map[string]struct {
		stream []byte
		id     digest.Digest
		want   error
	}{
		"plain":           {plain, id, nil},
		"gzip":            {z.Bytes(), id, nil},
		"zstd":            {zs, id, nil},
		"wrong digest":    {plain, digest.FromString("x"), imageservice.ErrCorrupt},
		"bad digest":      {plain, "sha256:zz", imageservice.ErrCorrupt},
		"cut gzip":        {z.Bytes()[:z.Len()/2], id, imageservice.ErrCorrupt},
		"flipped gzip":    {flipped, id, imageservice.ErrCorrupt},
		"cut zstd":        {zs[:len(zs)/2], id, imageservice.ErrCorrupt},
		"cut plain":       {plain[:700], id, imageservice.ErrCorrupt},
		"noise":           {bytes.Repeat([]byte("noise"), 500), id, imageservice.ErrCorrupt},
		"gzip magic only": {[]byte{0x1f, 0x8b, 8}, id, imageservice.ErrCorrupt},
		"zstd magic only": {[]byte{0x28, 0xb5, 0x2f, 0xfd}, id, imageservice.ErrCorrupt},
		"empty":           {nil, id, imageservice.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Layer(t.Context(), t.TempDir(), bytes.NewReader(tc.stream), tc.id)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(imageservice.ErrPullStalled)
	if _, err := Layer(ctx, t.TempDir(), bytes.NewReader(plain), id); !errors.Is(err, imageservice.ErrPullStalled) {
		t.Errorf("cancelled: %v", err)
	}
}

// FuzzLayer unpacks any bytes. Only the directory given may change.
func FuzzLayer(f *testing.F) {
	f.Add(layerTar(f, imagetest.File{Name: "a/", Mode: 0o700}, imagetest.File{Name: "a/b", Body: "x"}, imagetest.File{Name: ".wh.c"}))
	f.Add(layerTar(f, imagetest.File{Name: "a", Type: tar.TypeSymlink, Link: "../../.."}, imagetest.File{Name: "a/b", Body: "x"}))
	f.Add(layerTar(f, imagetest.File{Name: "a", Type: tar.TypeLink, Link: "/etc/passwd"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(t.TempDir(), "l", "1")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		before := outside(t, dir)
		Layer(context.Background(), dir, bytes.NewReader(b), digest.FromBytes(b))
		if after := outside(t, dir); len(after) != len(before) {
			t.Errorf("outside there was %v and is %v", before, after)
		}
	})
}
