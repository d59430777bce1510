package unpack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

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
// outside of the layer's directory. Some are refused, others land harmlessly inside. Where a shape has become known by a
// CVE its number is given; it stands for the class.
func TestHostile(t *testing.T) {
	up := strings.Repeat("../", 12)
	for name, files := range map[string][]imagetest.File{
		"absolute (CVE-2014-9356)":              {{Name: "/etc/evil", Body: "x"}},
		"dotdot (CVE-2018-1002200, zip slip)":   {{Name: up + "etc/evil", Body: "x"}, {Name: "a/../../../evil", Body: "x"}},
		"dotdot directory":                      {{Name: up + "evil/"}},
		"dotdot whiteout":                       {{Name: up + ".wh.canary"}, {Name: "../../.wh.canary"}},
		"whiteout of dotdot":                    {{Name: "a/"}, {Name: "a/.wh..."}, {Name: "a/.wh.."}},
		"whiteout of dot":                       {{Name: "a/"}, {Name: "a/.wh.."}},
		"opaque above":                          {{Name: "../../.wh..wh..opq"}},
		"symlink absolute (CVE-2014-6407)":      {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/evil", Body: "x"}},
		"symlink dotdot (CVE-2014-9357)":        {{Name: "a", Type: tar.TypeSymlink, Link: "../.."}, {Name: "a/evil", Body: "x"}, {Name: "a/canary", Body: "x"}},
		"symlink chain":                         {{Name: "a", Type: tar.TypeSymlink, Link: "b"}, {Name: "b", Type: tar.TypeSymlink, Link: "../.."}, {Name: "a/canary", Body: "x"}},
		"symlink loop":                          {{Name: "a", Type: tar.TypeSymlink, Link: "b"}, {Name: "b", Type: tar.TypeSymlink, Link: "a"}, {Name: "a/x", Body: "x"}},
		"symlink to itself":                     {{Name: "a", Type: tar.TypeSymlink, Link: "a/b"}, {Name: "a/x", Body: "x"}},
		"symlink dangling outside":              {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR/new"}, {Name: "a/b/c", Body: "x"}, {Name: "d", Type: tar.TypeSymlink, Link: "../../new"}, {Name: "d/e/", Mode: 0o777}},
		"symlink to /proc (CVE-2019-14271)":     {{Name: "a", Type: tar.TypeSymlink, Link: "/proc/self/root"}, {Name: "aCANARYDIR/canary", Body: "x"}, {Name: "b", Type: tar.TypeSymlink, Link: "/proc/self/cwd"}, {Name: "b/evil", Body: "x"}},
		"symlink swapped in (CVE-2018-15664)":   {{Name: "a/"}, {Name: "a/b", Body: "x"}, {Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/canary", Body: "x"}, {Name: "a/evil", Body: "x"}},
		"symlink swapped deep":                  {{Name: "a/b/c/d", Body: "x"}, {Name: "a/b", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/b/c/d", Body: "x"}, {Name: "a/b/canary", Body: "x"}},
		"symlink then whiteout":                 {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/.wh.canary"}},
		"symlink then opaque (CVE-2024-9676)":   {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/.wh..wh..opq"}},
		"symlink replaced":                      {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR/canary"}, {Name: "a", Body: "x"}},
		"symlink as directory":                  {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/", Mode: 0o777}},
		"hardlink absolute (CVE-2024-0406)":     {{Name: "a", Type: tar.TypeLink, Link: "CANARYDIR/canary"}, {Name: "a", Body: "x"}},
		"hardlink dotdot":                       {{Name: "a", Type: tar.TypeLink, Link: "../../canary"}},
		"hardlink to dotdot":                    {{Name: "a", Type: tar.TypeLink, Link: ".."}},
		"hardlink to the root":                  {{Name: "a", Type: tar.TypeLink, Link: "/"}},
		"hardlink by symlink":                   {{Name: "s", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "h", Type: tar.TypeLink, Link: "s/canary"}, {Name: "h", Body: "x"}},
		"hardlinked symlink (CVE-2021-32760)":   {{Name: "s", Type: tar.TypeSymlink, Link: "CANARYDIR/canary"}, {Name: "h", Type: tar.TypeLink, Link: "s", Mode: 0o777, UID: 5}, {Name: "h", Body: "x", Mode: 0o777, UID: 5}},
		"implied by symlink":                    {{Name: "a/", Mode: 0o700}, {Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "a/b/c", Body: "x"}},
		"mode through symlink (CVE-2021-32760)": {{Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR/canary", Mode: 0o777, UID: 5, Xattrs: map[string]string{"user.x": "y"}}},
		"the root itself (CVE-2021-29136)":      {{Name: "./", Mode: 0o777, UID: 5}, {Name: ".", Type: tar.TypeSymlink, Link: "CANARYDIR"}, {Name: "/", Type: tar.TypeSymlink, Link: "CANARYDIR"}},
		"the root whited out":                   {{Name: ".wh..wh..opq"}, {Name: ".wh."}},
		"overlay redirect (CVE-2023-0386)":      {{Name: "d/", Xattrs: map[string]string{"trusted.overlay.redirect": "/../../x", "user.overlay.opaque": "y"}}},
		"parent is a file":                      {{Name: "a", Body: "x"}, {Name: "a/b", Body: "x"}},
		"parent is a device":                    {{Name: "a", Type: tar.TypeChar}, {Name: "a/b", Body: "x"}, {Name: "a", Body: "x"}},
		"through a fifo":                        {{Name: "a", Type: tar.TypeFifo}, {Name: "a", Body: "x"}, {Name: "b", Type: tar.TypeFifo}, {Name: "b/c", Body: "x"}},
		"whiteout through a dir":                {{Name: "d/"}, {Name: "d/../../../.wh.canary"}},
		"whiteout then symlink":                 {{Name: ".wh.a"}, {Name: "a", Type: tar.TypeSymlink, Link: "CANARYDIR"}},
		"long names":                            {{Name: strings.Repeat("d/", 600) + "x", Body: "x"}, {Name: strings.Repeat("n", 300), Body: "x"}},
		"many directories":                      manyDirectories(),
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
				files[i].Name = strings.Replace(files[i].Name, "CANARYDIR", base, 1)
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

// manyDirectories go in and out of more directories than are kept open, with links across them.
func manyDirectories() []imagetest.File {
	var files []imagetest.File
	for i := range 3 * maxOpen {
		files = append(files, imagetest.File{Name: fmt.Sprintf("d%d/f", i), Body: "x"},
			imagetest.File{Name: fmt.Sprintf("d%d/l", i), Type: tar.TypeLink, Link: fmt.Sprintf("d%d/f", i/2)})
	}
	return append(files, imagetest.File{Name: "d5", Type: tar.TypeSymlink, Link: "CANARYDIR"}, imagetest.File{Name: "d5/f", Body: "x"})
}

// TestEntries makes one of each kind and looks at all of what it became.
func TestEntries(t *testing.T) {
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	long := strings.Repeat("long/", 40) + "name"
	add := func(h tar.Header, body string) {
		t.Helper()
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.Size, h.ModTime = int64(len(body)), when
		}
		if h.Format == 0 {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, "")
	add(tar.Header{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o1770, Uid: 1, Gid: 2}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "dir/file", Mode: 0o4755, Uid: 3, Gid: 4, PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}}, "body")
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "sym", Linkname: "dir/file", Mode: 0o777, Uid: 5, PAXRecords: map[string]string{"SCHILY.xattr.user.k": "v"}}, "")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "dir/file", Mode: 0o4755, Uid: 3, Gid: 4}, "")
	add(tar.Header{Typeflag: tar.TypeLink, Name: "hardsym", Linkname: "sym", Mode: 0o777, Uid: 5}, "")
	add(tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3, Mode: 0o666}, "")
	add(tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8, Devminor: 300, Mode: 0o660}, "")
	add(tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: long, Mode: 0o640, Format: tar.FormatGNU}, "gnu")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "void/" + long, Mode: 0o640}, "pax")
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "into", Linkname: "/not/yet"}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "into/here", Mode: 0o600}, "x")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := Layer(t.Context(), dir, bytes.NewReader(b.Bytes()), digest.FromBytes(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode, uid, gid uint32
		rdev           uint64
		body           string
	}{
		"dir": {unix.S_IFDIR | 0o1770, 1, 2, 0, ""}, "dir/file": {unix.S_IFREG | 0o4755, 3, 4, 0, "body"}, "hard": {unix.S_IFREG | 0o4755, 3, 4, 0, "body"},
		"sym": {unix.S_IFLNK | 0o777, 5, 0, 0, "body"}, "hardsym": {unix.S_IFLNK | 0o777, 5, 0, 0, "body"},
		"null": {unix.S_IFCHR | 0o666, 0, 0, unix.Mkdev(1, 3), ""}, "disk": {unix.S_IFBLK | 0o660, 0, 0, unix.Mkdev(8, 300), ""},
		"pipe": {unix.S_IFIFO | 0o600, 0, 0, 0, ""}, long: {unix.S_IFREG | 0o640, 0, 0, 0, "gnu"}, "void/" + long: {unix.S_IFREG | 0o640, 0, 0, 0, "pax"},
		"not/yet/here": {unix.S_IFREG | 0o600, 0, 0, 0, "x"},
	} {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid || st.Rdev != want.rdev || st.Mtim.Sec != when.Unix() {
			t.Errorf("%s: %v, mode %o, owner %d:%d, device %x, time %d", name, err, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec)
		}
		if want.body == "" {
			continue
		}
		if body, err := os.ReadFile(path); err != nil || string(body) != want.body {
			t.Errorf("%s holds %q, %v", name, body, err)
		}
	}
	var a, b2 unix.Stat_t
	if unix.Lstat(filepath.Join(dir, "hard"), &a) != nil || unix.Lstat(filepath.Join(dir, "dir/file"), &b2) != nil || a.Ino != b2.Ino {
		t.Error("the hard link is a copy")
	}
	value := make([]byte, 4)
	if n, err := unix.Lgetxattr(filepath.Join(dir, "dir/file"), "user.k", value); err != nil || string(value[:n]) != "v" {
		t.Errorf("extended attribute: %q, %v", value[:max(n, 0)], err)
	}
}

// TestBusyMachine unpacks links with dots while files are renamed elsewhere: the kernel then gives up resolving now and then.
func TestBusyMachine(t *testing.T) {
	other := t.TempDir()
	a, b := filepath.Join(other, "a"), filepath.Join(other, "b")
	if err := os.WriteFile(a, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for from, to := a, b; ; from, to = to, from {
			select {
			case <-stop:
				return
			default:
				os.Rename(from, to)
			}
		}
	}()
	files := []imagetest.File{{Name: "t/"}}
	for i := range 400 {
		link := fmt.Sprintf("d/e/up%d", i)
		files = append(files, imagetest.File{Name: link, Type: tar.TypeSymlink, Link: "../../../d/e/../../t"}, imagetest.File{Name: link + fmt.Sprintf("/f%d", i), Body: "x"})
	}
	dir, _, err := unpackInto(t, files...)
	close(stop)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "t")); err != nil || len(entries) != 400 {
		t.Errorf("%d files, %v", len(entries), err)
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
	z := bytes.NewBuffer(gzipped(plain))
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
		"plain":                 {plain, id, nil},
		"gzip":                  {z.Bytes(), id, nil},
		"zstd":                  {zs, id, nil},
		"wrong digest":          {plain, digest.FromString("x"), imageservice.ErrCorrupt},
		"bad digest":            {plain, "sha256:zz", imageservice.ErrCorrupt},
		"zstd:chunked":          {append(bytes.Clone(zs), 0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'T', 'O', 'C', '!'), id, nil},
		"zstd, skippable first": {append([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y'}, zs...), id, nil},
		"gzip members":          {bytes.Join([][]byte{gzipped(plain[:1000]), gzipped(plain[1000:])}, nil), id, nil},
		"cut gzip":              {z.Bytes()[:z.Len()/2], id, imageservice.ErrCorrupt},
		"flipped gzip":          {flipped, id, imageservice.ErrCorrupt},
		"cut zstd":              {zs[:len(zs)/2], id, imageservice.ErrCorrupt},
		"cut plain":             {plain[:700], id, imageservice.ErrCorrupt},
		"noise":                 {bytes.Repeat([]byte("noise"), 500), id, imageservice.ErrCorrupt},
		"gzip magic only":       {[]byte{0x1f, 0x8b, 8}, id, imageservice.ErrCorrupt},
		"zstd magic only":       {[]byte{0x28, 0xb5, 0x2f, 0xfd}, id, imageservice.ErrCorrupt},
		"empty":                 {nil, id, imageservice.ErrCorrupt},
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

// block512 is one raw header of a tar archive, for what Go's writer does not write.
func block512(name string, kind byte, size int) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00"+fmt.Sprintf("%011o\x00%011o\x00", size, 0)+"        "+string(kind))
	copy(b[257:], "ustar\x0000")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// sparseTar has a file of 8192 bytes in the GNU format 1.0 for sparse files: four bytes of data, the rest is a hole.
func sparseTar() []byte { return sparseTarOf("8192") }

func sparseTarOf(size string) []byte {
	records := ""
	for _, r := range []string{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=" + size} {
		records += fmt.Sprintf("%d %s\n", len(r)+4, r)
	}
	pad := func(s string) []byte { return append([]byte(s), make([]byte, (512-len(s)%512)%512)...) }
	return bytes.Join([][]byte{
		block512("PaxHeaders/s", 'x', len(records)), pad(records),
		block512("GNUSparseFile.0/s", '0', 512+4), pad("1\n0\n4\n"), pad("data"), make([]byte, 1024),
	}, nil)
}

func TestSparseFile(t *testing.T) {
	dir, b := t.TempDir(), sparseTar()
	if _, err := Layer(t.Context(), dir, bytes.NewReader(b), digest.FromBytes(b)); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(filepath.Join(dir, "s"))
	if err != nil || len(body) != 8192 || string(body[:4]) != "data" {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if len(bytes.Trim(body[4:], "\x00")) != 0 {
		t.Error("the hole is not empty")
	}
	// A hole takes no space, however large, up to a limit.
	for size, ok := range map[string]bool{"2000000001": true, "8192000000000": false} {
		dir, b := t.TempDir(), sparseTarOf(size)
		_, err := Layer(t.Context(), dir, bytes.NewReader(b), digest.FromBytes(b))
		if ok != (err == nil) || err != nil && !errors.Is(err, imageservice.ErrCorrupt) {
			t.Errorf("%s bytes: %v", size, err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, "s"), &st); ok && (err != nil || fmt.Sprint(st.Size) != size || st.Blocks > 1024) {
			t.Errorf("%s bytes: size %d in %d blocks, %v", size, st.Size, st.Blocks, err)
		}
	}
}

func gzipped(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

// FuzzLayer unpacks any bytes. Only the directory given may change.
func FuzzLayer(f *testing.F) {
	f.Add(layerTar(f, imagetest.File{Name: "a/", Mode: 0o700}, imagetest.File{Name: "a/b", Body: "x"}, imagetest.File{Name: ".wh.c"}))
	f.Add(layerTar(f, imagetest.File{Name: "a", Type: tar.TypeSymlink, Link: "../../.."}, imagetest.File{Name: "a/b", Body: "x"}))
	f.Add(layerTar(f, imagetest.File{Name: "a", Type: tar.TypeLink, Link: "/etc/passwd"}))
	f.Add(layerTar(f, imagetest.File{Name: "d/", Xattrs: map[string]string{"user.k": "v", "trusted.overlay.opaque": "y"}}, imagetest.File{Name: "d/.wh..wh..opq"}, imagetest.File{Name: "d/.wh.x"}, imagetest.File{Name: "d/x/"}))
	f.Add(layerTar(f, imagetest.File{Name: "dev", Type: tar.TypeChar}, imagetest.File{Name: "dev", Type: tar.TypeFifo}, imagetest.File{Name: "dev/x", Body: "x"}))
	f.Add(layerTar(f, imagetest.File{Name: "a/b", Body: "x"}, imagetest.File{Name: "a", Type: tar.TypeSymlink, Link: "/proc/self/root/tmp"}, imagetest.File{Name: "a/b", Body: "x"}))
	f.Add(layerTar(f, imagetest.File{Name: strings.Repeat("long/", 25) + "x", Body: "x"}))
	f.Add(sparseTar())
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
