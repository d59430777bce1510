package content

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

func put(t *testing.T, s *Store, body string, want ocispec.Descriptor) (ocispec.Descriptor, error) {
	t.Helper()
	w, err := s.Writer(want)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Discard()
	if _, err := w.Write([]byte(body)); err != nil {
		return ocispec.Descriptor{}, err
	}
	return w.Commit()
}

func TestStore(t *testing.T) {
	root := t.TempDir()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("body")
	for range 2 { // the same blob again does no harm
		if got, err := put(t, s, "body", ocispec.Descriptor{Digest: d, Size: 4}); err != nil || got.Digest != d || got.Size != 4 {
			t.Fatalf("%v, %v", got, err)
		}
	}
	sha512 := digest.SHA512.FromString("body")
	if _, err := put(t, s, "body", ocispec.Descriptor{Digest: sha512}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]ocispec.Descriptor{
		"other digest": {Digest: digest.FromString("x")}, "too long": {Size: 3}, "too short": {Size: 5},
		"bad digest": {Digest: "sha256:../../x"}, "unknown algorithm": {Digest: "md5:d41d8cd98f00b204e9800998ecf8427e"},
	} {
		if _, err := put(t, s, "body", want); !errors.Is(err, imageservice.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := s.List(); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "ingest")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if b, err := s.Read(d, 4); err != nil || string(b) != "body" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := s.Read(d, 3); !errors.Is(err, imageservice.ErrCorrupt) {
		t.Errorf("over the limit: %v", err)
	}
	if !s.Has(d, 4) || s.Has(d, 5) || s.Has("sha256:zz", 4) {
		t.Error("Has is wrong")
	}
	for range 2 {
		if err := s.Delete(d); err != nil {
			t.Error(err)
		}
	}
	if s.Has(d, 4) {
		t.Error("the blob is still there")
	}
	if err := s.Delete(digest.Digest("sha256:" + strings.Repeat("../", 10))); err == nil {
		t.Error("a path was taken for a digest")
	}
}
