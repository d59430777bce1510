package engine

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

func artifact(t testing.TB, files ...imagetest.File) imagetest.Image {
	t.Helper()
	a, err := imagetest.BuildArtifact("application/vnd.test", files...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestArtifact(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	a := artifact(t, imagetest.File{Name: "model/weights", Body: "w"}, imagetest.File{Name: "card.md", Body: "c"}, imagetest.File{Body: "nameless"})
	s.push(t, "a", "v1", a)
	got := pull(t, e, s.addr+"/a:v1")
	if got.ID != a.Manifest.Digest.String() || got.ArtifactType != "application/vnd.test" || got.Size < 10 || got.RepoTags[0] != s.addr+"/a:v1" || got.Annotations["org.opencontainers.image.created"] != "now" {
		t.Errorf("got %+v", got)
	}
	check := func(e *Engine) {
		t.Helper()
		mounts, err := e.View(t.Context(), "v", got.ID)
		if err != nil || len(mounts) != 1 || mounts[0].Type != "bind" || !strings.Contains(strings.Join(mounts[0].Options, ","), "ro") {
			t.Fatalf("view: %+v, %v", mounts, err)
		}
		for name, want := range map[string]string{"model/weights": "w", "card.md": "c"} {
			path := filepath.Join(mounts[0].Source, name)
			body, err := os.ReadFile(path)
			fi, statErr := os.Stat(path)
			if err != nil || statErr != nil || string(body) != want || fi.Mode().Perm() != 0o444 {
				t.Errorf("%s: %q, %v, %v", name, body, err, fi)
			}
		}
		if entries, _ := os.ReadDir(mounts[0].Source); len(entries) != 2 {
			t.Errorf("files: %v", entries)
		}
		if _, err := e.Prepare(t.Context(), "c", got.ID, nil); !errors.Is(err, imageservice.ErrArtifact) {
			t.Errorf("an artifact as a root file system: %v", err)
		}
	}
	check(e)
	e = reopen(t, e)
	check(e)
	// In use it stays; then nothing of it does.
	if err := e.Remove(t.Context(), s.addr+"/a:v1"); err != nil {
		t.Fatal(err)
	}
	if all, _ := e.List(t.Context()); len(all) != 0 {
		t.Errorf("listed after removal: %+v", all)
	}
	if err := e.Release(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestHostileArtifact(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	s.push(t, "a", "v1", artifact(t, imagetest.File{Name: "../../escape", Body: "x"}))
	if _, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/a:v1"}); !errors.Is(err, imageservice.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// pushDocument puts a document under repo:tag, and under its digest, and returns its descriptor.
func (s *server) pushDocument(t *testing.T, repo, tag, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	for _, at := range []string{tag, d.Digest.String()} {
		s.do(t, http.MethodPut, "/v2/"+repo+"/manifests/"+at, mediaType, b)
	}
	return d
}

func indexOf(all ...ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: all}
}

// TestNestedIndex: indexes in indexes, entries that do not say what they are for, and attestations beside them.
func TestNestedIndex(t *testing.T) {
	s := serve(t, false)
	at := func(arch, variant string) (imagetest.Image, ocispec.Descriptor) {
		p := ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
		img := small(t, imagetest.Spec{Platform: p})
		s.push(t, "x", img.Manifest.Digest.String(), img)
		d := img.Manifest
		d.Platform = &p
		return img, d
	}
	v6, v6Desc := at("arm", "v6")
	v7, v7Desc := at("arm", "v7")
	amd, amdDesc := at("amd64", "")
	silent := amdDesc
	silent.Platform = nil
	attest := v7Desc
	attest.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	inner := s.pushDocument(t, "x", "inner", ocispec.MediaTypeImageIndex, indexOf(attest, v6Desc, v7Desc))
	s.pushDocument(t, "x", "v1", ocispec.MediaTypeImageIndex, indexOf(silent, inner))
	for platform, want := range map[string]imagetest.Image{"arm/v6": v6, "arm/v7": v7, "arm/v8": v7, "amd64": amd} {
		arch, variant, _ := strings.Cut(platform, "/")
		e := open(t, Config{Platform: &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}})
		if got := pull(t, e, s.addr+"/x:v1"); got.ID != want.ID.String() {
			t.Errorf("%s: got %s, want %s", platform, got.ID, want.ID)
		}
		e = reopen(t, e)
		if all, err := e.List(t.Context()); err != nil || len(all) != 1 {
			t.Errorf("%s: after a restart %v, %v", platform, all, err)
		}
	}
	e := open(t, Config{Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}})
	if _, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/x:v1"}); !errors.Is(err, imageservice.ErrWrongPlatform) {
		t.Errorf("got %v", err)
	}
	deep := inner
	for range maxNesting + 1 {
		deep = s.pushDocument(t, "x", "deep", ocispec.MediaTypeImageIndex, indexOf(deep))
	}
	if _, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/x:deep"}); !errors.Is(err, imageservice.ErrCorrupt) {
		t.Errorf("without end: %v", err)
	}
}

func TestUnsupported(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	s.pushDocument(t, "x", "schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws", map[string]any{"schemaVersion": 1, "fsLayers": []string{}})
	secret := img.Layers[0]
	secret.MediaType = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
	s.pushDocument(t, "x", "secret", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: img.Config, Layers: []ocispec.Descriptor{secret},
	})
	for tag, want := range map[string]string{"schema1": "schema 1", "secret": "encrypted"} {
		_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/x:" + tag})
		if !errors.Is(err, imageservice.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", tag, err)
		}
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
