package imagetest

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// Run holds an implementation of imageservice.Service to the contract. open returns an empty service; it is called
// for each test. Nothing is mounted and no registry is needed.
func Run(t *testing.T, open func(t *testing.T) imageservice.Service) {
	for name, test := range map[string]func(*testing.T, *suite){
		"import OCI":            func(t *testing.T, s *suite) { s.imported(t, s.oci(t, s.one)) },
		"import docker":         func(t *testing.T, s *suite) { s.imported(t, s.docker(t, s.one)) },
		"import gzipped":        func(t *testing.T, s *suite) { s.imported(t, gzipped(t, s.oci(t, s.one))) },
		"find":                  testFind,
		"list":                  testList,
		"move a tag":            testMoveTag,
		"remove":                testRemove,
		"corrupt archives":      testCorrupt,
		"wrong platform":        testPlatform,
		"export":                testExport,
		"root file systems":     testRoots,
		"image removed in use":  testInUse,
		"retain":                testRetain,
		"pull what is no name":  testPullName,
		"file systems have use": testFSInfo,
	} {
		t.Run(name, func(t *testing.T) {
			s := &suite{svc: open(t)}
			s.one = s.build(t, Spec{
				Names:  []string{"one:v1"},
				Layers: [][]File{{{Name: "a", Body: "a"}}, {{Name: "b", Body: "b"}}},
				Config: imageservice.Config{
					User: "7:8", Env: []string{"A=b"}, Entrypoint: []string{"/a"}, Cmd: []string{"c"}, WorkingDir: "/w",
					Volumes: []string{"/v"}, Labels: map[string]string{"l": "m"}, StopSignal: "SIGINT",
				},
			})
			s.two = s.build(t, Spec{Names: []string{"registry.test:5000/two/2:v2", "two"}, Layers: [][]File{{{Name: "a", Body: "a"}}}})
			test(t, s)
		})
	}
}

type suite struct {
	svc      imageservice.Service
	one, two Image
}

const fullOne = "docker.io/library/one:v1"

func (s *suite) build(t *testing.T, spec Spec) Image {
	t.Helper()
	img, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (s *suite) oci(t *testing.T, images ...Image) []byte {
	t.Helper()
	b, err := OCIArchive(images...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *suite) docker(t *testing.T, images ...Image) []byte {
	t.Helper()
	b, err := DockerArchive(images...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (s *suite) load(t *testing.T, images ...Image) []imageservice.Image {
	t.Helper()
	got, err := s.svc.Import(t.Context(), bytes.NewReader(s.oci(t, images...)))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// imported checks that the archive holds image one, as it was built.
func (s *suite) imported(t *testing.T, archive []byte) {
	t.Helper()
	images, err := s.svc.Import(t.Context(), bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 {
		t.Fatalf("%d images, want 1", len(images))
	}
	img := images[0]
	if img.ID != s.one.ID.String() || !slices.Equal(img.RepoTags, []string{fullOne}) || len(img.RepoDigests) != 1 || img.Size <= 0 {
		t.Errorf("got %+v", img)
	}
	c := img.Config
	if c.User != "7:8" || c.WorkingDir != "/w" || c.StopSignal != "SIGINT" || c.Labels["l"] != "m" ||
		!slices.Equal(c.Env, []string{"A=b"}) || !slices.Equal(c.Entrypoint, []string{"/a"}) ||
		!slices.Equal(c.Cmd, []string{"c"}) || !slices.Equal(c.Volumes, []string{"/v"}) {
		t.Errorf("configuration %+v", c)
	}
}

func testFind(t *testing.T, s *suite) {
	s.load(t, s.one, s.two)
	id := s.one.ID.String()
	for _, ref := range []string{
		"one:v1", "library/one:v1", "docker.io/one:v1", fullOne, id, s.one.ID.Encoded(), s.one.ID.Encoded()[:12], id[:19],
		"one@" + s.one.Manifest.Digest.String(), "one:v9@" + s.one.Manifest.Digest.String(), s.one.Manifest.Digest.String(),
	} {
		if img, err := s.svc.Get(t.Context(), ref); err != nil || img.ID != id {
			t.Errorf("Get(%q) is %q, %v", ref, img.ID, err)
		}
	}
	if img, err := s.svc.Get(t.Context(), "two"); err != nil || img.ID != s.two.ID.String() {
		t.Errorf("Get(two) is %q, %v", img.ID, err)
	}
	for _, ref := range []string{"one", "one:v2", "docker.io/library/one", "sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 12), id[:15]} {
		if _, err := s.svc.Get(t.Context(), ref); !errors.Is(err, imageservice.ErrNotFound) {
			t.Errorf("Get(%q): %v, want not found", ref, err)
		}
	}
	for _, ref := range []string{"", "UPPER", "a b", "-", "a:b:c@d"} {
		if _, err := s.svc.Get(t.Context(), ref); !errors.Is(err, imageservice.ErrInvalidReference) {
			t.Errorf("Get(%q): %v, want invalid reference", ref, err)
		}
	}
}

func testList(t *testing.T, s *suite) {
	if all, err := s.svc.List(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	got := s.load(t, s.one, s.two)
	all, err := s.svc.List(t.Context())
	if err != nil || len(all) != 2 || all[0].ID >= all[1].ID || len(got) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	all[0].RepoTags[0] = "scribble"
	if again, _ := s.svc.List(t.Context()); again[0].RepoTags[0] == "scribble" {
		t.Error("callers can write into the store")
	}
}

func testMoveTag(t *testing.T, s *suite) {
	s.load(t, s.one)
	s.two.Names = []string{"one:v1"}
	s.load(t, s.two)
	img, err := s.svc.Get(t.Context(), "one:v1")
	if err != nil || img.ID != s.two.ID.String() {
		t.Fatalf("the tag means %q, %v", img.ID, err)
	}
	old, err := s.svc.Get(t.Context(), s.one.ID.String())
	if err != nil || len(old.RepoTags) != 0 || len(old.RepoDigests) != 1 {
		t.Errorf("the old image is %+v, %v", old, err)
	}
}

func testRemove(t *testing.T, s *suite) {
	s.load(t, s.one, s.two)
	for range 2 { // what is gone can be removed
		if err := s.svc.Remove(t.Context(), "two"); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{"two", "registry.test:5000/two/2:v2", s.two.ID.String()} {
		if _, err := s.svc.Get(t.Context(), ref); !errors.Is(err, imageservice.ErrNotFound) {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
	// The layer that both share is still good.
	if _, err := s.svc.Prepare(t.Context(), "k", s.one.ID.String(), nil); err != nil {
		t.Error(err)
	}
	if err := s.svc.Remove(t.Context(), "a b"); !errors.Is(err, imageservice.ErrInvalidReference) {
		t.Error(err)
	}
}

func testCorrupt(t *testing.T, s *suite) {
	good := s.oci(t, s.one)
	flipped := bytes.Replace(good, []byte(`"A=b"`), []byte(`"A=c"`), 1)
	lacking := s.one
	lacking.Blobs = map[digest.Digest][]byte{}
	for d, b := range s.one.Blobs {
		if d != s.one.Layers[0].Digest {
			lacking.Blobs[d] = b
		}
	}
	for name, archive := range map[string][]byte{
		"truncated": good[:len(good)/2], "flipped": flipped, "empty": nil, "a blob missing": s.oci(t, lacking),
		"noise": bytes.Repeat([]byte("noise"), 1000), "another tar": mustTar(t, File{Name: "x", Body: "y"}),
		"cut gzip": gzipped(t, good)[:100],
	} {
		if _, err := s.svc.Import(t.Context(), bytes.NewReader(archive)); !errors.Is(err, imageservice.ErrCorrupt) {
			t.Errorf("%s: %v, want corrupt", name, err)
		}
	}
	if all, _ := s.svc.List(t.Context()); len(all) != 0 {
		t.Errorf("left %v", all)
	}
}

func mustTar(t *testing.T, files ...File) []byte {
	t.Helper()
	b, err := Tar(files)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testPlatform(t *testing.T, s *suite) {
	alien := s.build(t, Spec{Names: []string{"alien"}, Platform: ocispec.Platform{OS: "linux", Architecture: "s390x"}})
	_, err := s.svc.Import(t.Context(), bytes.NewReader(s.oci(t, s.one, alien)))
	if !errors.Is(err, imageservice.ErrWrongPlatform) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("got %v", err)
	}
	if all, _ := s.svc.List(t.Context()); len(all) != 0 {
		t.Errorf("half an archive was imported: %v", all)
	}
}

func testExport(t *testing.T, s *suite) {
	s.load(t, s.one, s.two)
	var out bytes.Buffer
	if err := s.svc.Export(t.Context(), &out, []string{"one:v1", s.two.ID.String()}); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"one:v1", "two"} {
		if err := s.svc.Remove(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.svc.Import(t.Context(), &out); err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	for ref, id := range map[string]string{"one:v1": s.one.ID.String(), "two:latest": s.two.ID.String(), "registry.test:5000/two/2:v2": s.two.ID.String()} {
		if img, err := s.svc.Get(t.Context(), ref); err != nil || img.ID != id {
			t.Errorf("%s is %q, %v", ref, img.ID, err)
		}
	}
	if err := s.svc.Export(t.Context(), io.Discard, []string{"three"}); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := s.svc.Export(t.Context(), io.Discard, nil); !errors.Is(err, imageservice.ErrInvalidReference) {
		t.Errorf("got %v", err)
	}
}

func testRoots(t *testing.T, s *suite) {
	s.load(t, s.one)
	id := s.one.ID.String()
	first, err := s.svc.Prepare(t.Context(), "c1", id, nil)
	if err != nil || len(first) == 0 {
		t.Fatalf("%v, %v", first, err)
	}
	again, err := s.svc.Prepare(t.Context(), "c1", id, nil)
	if err != nil || len(again) != len(first) || again[0].Type != first[0].Type || !slices.Equal(again[0].Options, first[0].Options) {
		t.Errorf("prepared again: %v, %v; first %v", again, err, first)
	}
	view, err := s.svc.View(t.Context(), "v1", id)
	if err != nil || !slices.Contains(view[0].Options, "ro") {
		t.Errorf("view: %v, %v", view, err)
	}
	if u, err := s.svc.Usage(t.Context(), "c1"); err != nil || u.Inodes < 1 || u.Time.IsZero() {
		t.Errorf("usage: %v, %v", u, err)
	}
	for range 2 {
		if err := s.svc.Release(t.Context(), "c1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.svc.Usage(t.Context(), "c1"); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("usage of what is gone: %v", err)
	}
	if _, err := s.svc.Prepare(t.Context(), "c2", "sha256:"+strings.Repeat("0", 64), nil); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("prepare without image: %v", err)
	}
	for _, key := range []string{"", ".", "..", "a/b", "../x", "a:b", "a,b"} {
		if _, err := s.svc.Prepare(t.Context(), key, id, nil); err == nil {
			t.Errorf("the key %q was taken", key)
		}
	}
}

func testInUse(t *testing.T, s *suite) {
	s.load(t, s.one)
	id := s.one.ID.String()
	first, err := s.svc.Prepare(t.Context(), "c1", id, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.svc.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	again, err := s.svc.Prepare(t.Context(), "c1", id, nil)
	if err != nil || !slices.Equal(again[0].Options, first[0].Options) {
		t.Errorf("%v, %v", again, err)
	}
	if _, err := s.svc.Prepare(t.Context(), "c2", id, nil); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("a new key on a removed image: %v", err)
	}
	s.load(t, s.one)
	if _, err := s.svc.Prepare(t.Context(), "c2", id, nil); err != nil {
		t.Error(err)
	}
}

func testRetain(t *testing.T, s *suite) {
	s.load(t, s.one)
	for _, key := range []string{"a", "b", "c"} {
		if _, err := s.svc.Prepare(t.Context(), key, s.one.ID.String(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.svc.Retain(t.Context(), []string{"b", "unheard"}); err != nil {
		t.Fatal(err)
	}
	for key, there := range map[string]bool{"a": false, "b": true, "c": false} {
		if _, err := s.svc.Usage(t.Context(), key); (err == nil) != there {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func testPullName(t *testing.T, s *suite) {
	for _, ref := range []string{"", "UPPER", "a b"} {
		if _, err := s.svc.Pull(t.Context(), imageservice.PullRequest{Reference: ref}); !errors.Is(err, imageservice.ErrInvalidReference) {
			t.Errorf("Pull(%q): %v", ref, err)
		}
	}
}

func testFSInfo(t *testing.T, s *suite) {
	s.load(t, s.one, s.two)
	images, containers, err := s.svc.FSInfo(t.Context())
	if err != nil || images.Mountpoint == "" || containers.Mountpoint == "" || images.Used.Bytes <= 0 || images.Used.Inodes <= 0 || images.Used.Time.IsZero() {
		t.Errorf("%+v, %+v, %v", images, containers, err)
	}
}
