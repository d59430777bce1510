package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// memory is a Blobs in memory.
type memory map[digest.Digest][]byte

func (m memory) Put(r io.Reader, want ocispec.Descriptor) (ocispec.Descriptor, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return want, err
	}
	d := digest.FromBytes(b)
	if want.Digest != "" && want.Digest != d {
		return want, imageservice.ErrCorrupt
	}
	m[d] = b
	return ocispec.Descriptor{MediaType: want.MediaType, Digest: d, Size: int64(len(b))}, nil
}

func (m memory) Read(d digest.Digest, _ int64) ([]byte, error) {
	if b, ok := m[d]; ok {
		return b, nil
	}
	return nil, errors.New("absent")
}

func TestRead(t *testing.T) {
	manifest := `{"config":{"digest":"` + digest.FromString("config").String() + `"},"layers":[]}`
	target := digest.FromString(manifest)
	blob := imagetest.File{Name: "blobs/sha256/" + target.Encoded(), Body: manifest}
	layout := imagetest.File{Name: "oci-layout", Body: `{"imageLayoutVersion":"1.0.0"}`}
	index := func(annotations string) imagetest.File {
		return imagetest.File{Name: "index.json", Body: fmt.Sprintf(`{"manifests":[{"digest":%q,"size":%d,"annotations":%s}]}`, target, len(manifest), annotations)}
	}
	docker := imagetest.File{Name: "manifest.json", Body: `[{"Config":"config.json","RepoTags":["a:1","b:2"],"Layers":["x/layer.tar","y/layer.tar"]}]`}
	config := imagetest.File{Name: "config.json", Body: "config"}
	layer := imagetest.File{Name: "x/layer.tar", Body: "layer"}
	link := imagetest.File{Name: "y/layer.tar", Type: tar.TypeSymlink, Link: "../x/layer.tar"}
	for name, tc := range map[string]struct {
		files []imagetest.File
		names []string
		want  error
	}{
		"containerd":            {[]imagetest.File{layout, blob, index(`{"io.containerd.image.name":"docker.io/library/a:1"}`)}, []string{"docker.io/library/a:1"}, nil},
		"a full ref.name":       {[]imagetest.File{blob, index(`{"org.opencontainers.image.ref.name":"r.test/a:1"}`), layout}, []string{"r.test/a:1"}, nil},
		"a tag as ref.name":     {[]imagetest.File{layout, blob, index(`{"org.opencontainers.image.ref.name":"latest"}`)}, nil, nil},
		"docker 25, both kinds": {[]imagetest.File{layout, blob, index(`{}`), docker, config, layer, link}, []string{"a:1", "b:2"}, nil},
		"docker, old":           {[]imagetest.File{link, config, layer, docker}, []string{"a:1", "b:2"}, nil},
		"names with ./":         {[]imagetest.File{{Name: "./oci-layout", Body: layout.Body}, {Name: "./" + blob.Name, Body: manifest}, {Name: "./index.json", Body: index(`{}`).Body}}, nil, nil},
		"no layer":              {[]imagetest.File{config, docker}, nil, imageservice.ErrCorrupt},
		"no config":             {[]imagetest.File{layer, link, docker}, nil, imageservice.ErrCorrupt},
		"wrong blob":            {[]imagetest.File{layout, {Name: blob.Name, Body: "else"}, index(`{}`)}, nil, imageservice.ErrCorrupt},
		"no index":              {[]imagetest.File{layout, blob}, nil, imageservice.ErrCorrupt},
		"empty index":           {[]imagetest.File{layout, {Name: "index.json", Body: `{}`}}, nil, imageservice.ErrCorrupt},
		"layout 2":              {[]imagetest.File{{Name: "oci-layout", Body: `{"imageLayoutVersion":"2.0.0"}`}, blob, index(`{}`)}, nil, imageservice.ErrCorrupt},
		"broken index":          {[]imagetest.File{layout, {Name: "index.json", Body: `[`}}, nil, imageservice.ErrCorrupt},
		"broken manifest.json":  {[]imagetest.File{{Name: "manifest.json", Body: `{`}}, nil, imageservice.ErrCorrupt},
		"empty manifest.json":   {[]imagetest.File{{Name: "manifest.json", Body: `[]`}}, nil, imageservice.ErrCorrupt},
		"nothing":               {nil, nil, imageservice.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := imagetest.Tar(tc.files)
			if err != nil {
				t.Fatal(err)
			}
			entries, err := Read(t.Context(), bytes.NewReader(b), memory{})
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v", err)
			}
			if err == nil && (len(entries) != 1 || !slices.Equal(entries[0].Names, tc.names)) {
				t.Errorf("got %+v", entries)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	img, err := imagetest.Build(imagetest.Spec{Names: []string{"a"}, Layers: [][]imagetest.File{{{Name: "a", Body: "a"}}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, archive := range []func(...imagetest.Image) ([]byte, error){imagetest.OCIArchive, imagetest.DockerArchive} {
		b, err := archive(img)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { Read(t.Context(), bytes.NewReader(b), memory{}) })
}
