package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

func titled(names ...string) ocispec.Manifest {
	m := ocispec.Manifest{Config: ocispec.Descriptor{MediaType: "application/vnd.oci.empty.v1+json"}}
	for _, n := range names {
		m.Layers = append(m.Layers, ocispec.Descriptor{Annotations: map[string]string{ocispec.AnnotationTitle: n}})
	}
	return m
}

func TestFiles(t *testing.T) {
	for _, tc := range []struct {
		names []string
		want  string // joined names, or what the error says
		ok    bool
	}{
		{[]string{"a", "b/c", "b/d"}, "a b/c b/d", true},
		{[]string{"", "a"}, "a", true},
		{[]string{"…", ".hidden", "a b"}, "… .hidden a b", true},
		{[]string{"/etc/passwd"}, "is absolute", false},
		{[]string{"../x"}, "leads out", false},
		{[]string{"a/../../x"}, "leads out", false},
		{[]string{".."}, "leads out", false},
		{[]string{"."}, "shortest form", false},
		{[]string{"a//b"}, "shortest form", false},
		{[]string{"a/"}, "shortest form", false},
		{[]string{"a\x00b"}, "characters", false},
		{[]string{strings.Repeat("a", 256)}, "too long", false},
		{[]string{"a", "a"}, "two files", false},
		{[]string{"a", "a/b"}, "both a file", false},
		{[]string{"a/b/c", "a"}, "both a file", false},
	} {
		files, err := Files(titled(tc.names...))
		if tc.ok {
			var got []string
			for _, f := range files {
				got = append(got, f.Name)
			}
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("%q: %q, %v", tc.names, got, err)
			}
			continue
		}
		if !errors.Is(err, imageservice.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.names, err, tc.want)
		}
	}
	m := titled()
	m.Layers = []ocispec.Descriptor{{Annotations: map[string]string{"org.cnai.model.filepath": "m/w"}}}
	if files, err := Files(m); err != nil || len(files) != 1 || files[0].Name != "m/w" {
		t.Errorf("model: %v, %v", files, err)
	}
}

func TestCheckLayers(t *testing.T) {
	for mediaType, ok := range map[string]bool{
		"": true, ocispec.MediaTypeImageLayer: true, ocispec.MediaTypeImageLayerGzip: true, ocispec.MediaTypeImageLayerZstd: true,
		"application/vnd.docker.image.rootfs.diff.tar": true, "application/vnd.docker.image.rootfs.diff.tar.gzip": true, "application/vnd.docker.image.rootfs.diff.tar.zstd": true,
		"application/vnd.oci.image.layer.v1.tar+encrypted": false, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted": false,
		"application/vnd.oci.image.layer.v1.tar+lzma": false, "application/vnd.erofs.layer.v1": false, "text/plain": false,
	} {
		err := CheckLayers(ocispec.Manifest{Layers: []ocispec.Descriptor{{MediaType: mediaType}}})
		if (err == nil) != ok || err != nil && (!errors.Is(err, imageservice.ErrUnsupported) || !strings.Contains(err.Error(), mediaType)) {
			t.Errorf("%q: %v", mediaType, err)
		}
	}
	foreign := ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}
	if err := CheckLayers(ocispec.Manifest{Layers: []ocispec.Descriptor{foreign}}); err != nil {
		t.Errorf("a foreign layer that its registry has: %v", err)
	}
	foreign.URLs = []string{"https://elsewhere.test"}
	if err := CheckLayers(ocispec.Manifest{Layers: []ocispec.Descriptor{foreign}}); !errors.Is(err, imageservice.ErrUnsupported) {
		t.Errorf("a foreign layer: %v", err)
	}
}

func TestSupported(t *testing.T) {
	for _, tc := range []struct{ mediaType, doc, want string }{
		{"application/vnd.docker.distribution.manifest.v1+prettyjws", `{}`, "schema 1"},
		{"application/json", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		{"application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		{"text/html", `<html>`, "text/html"},
		{"application/vnd.oci.image.index.v1+json", `{}`, ""},
	} {
		err := Supported(tc.mediaType, []byte(tc.doc))
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, imageservice.ErrUnsupported) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", tc.mediaType, err)
		}
	}
}

// TestOneReading is CVE-2021-41190: a document that is an index to one reader and a manifest to another.
func TestOneReading(t *testing.T) {
	d := `{"digest":"` + digest.FromString("x").String() + `","size":1}`
	both := `{"config":` + d + `,"layers":[` + d + `],"manifests":[` + d + `]}`
	for name, read := range map[string]func([]byte) error{
		"index":    func(b []byte) error { _, err := ParseIndex(b); return err },
		"manifest": func(b []byte) error { _, err := Parse(b); return err },
	} {
		if err := read([]byte(both)); !errors.Is(err, imageservice.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	liar := `{"mediaType":"application/vnd.oci.image.index.v1+json","config":` + d + `,"layers":[]}`
	if _, err := Parse([]byte(liar)); !errors.Is(err, imageservice.ErrCorrupt) {
		t.Errorf("media type of an index: %v", err)
	}
	if _, err := Parse([]byte(`{"config":` + d + `}`)); err != nil {
		t.Errorf("no layers: %v", err)
	}
}

func FuzzDocuments(f *testing.F) {
	machine := platforms.Only(platforms.MustParse("linux/amd64"))
	x := digest.FromString("x").String()
	f.Add([]byte(`{"manifests":[{"digest":"`+x+`","platform":{"os":"linux","architecture":"arm","variant":"v7"}},{"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}`), 0)
	f.Add([]byte(`{"config":{"digest":"`+x+`"},"layers":[{"digest":"`+x+`","annotations":{"org.opencontainers.image.title":"a/../b"}}]}`), 1)
	f.Add([]byte(`{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["`+x+`"]},"config":{"Env":null,"Volumes":{"/":{}}}}`), 1)
	f.Fuzz(func(t *testing.T, doc []byte, layers int) {
		if index, err := ParseIndex(doc); err == nil {
			if picked, err := Pick(index, machine, "linux/amd64"); err == nil && len(picked) == 0 {
				t.Error("nothing was picked, and no error")
			}
		}
		if m, err := Parse(doc); err == nil {
			files, err := Files(m)
			for _, file := range files {
				if err == nil && (strings.HasPrefix(file.Name, "/") || strings.Contains("/"+file.Name+"/", "/../")) {
					t.Errorf("a file may be called %q", file.Name)
				}
			}
			_ = CheckLayers(m)
		}
		if img, err := ParseConfig(doc, layers, machine, "linux/amd64"); err == nil && len(img.ChainIDs) != layers {
			t.Errorf("%d chain ids for %d layers", len(img.ChainIDs), layers)
		}
		_ = Supported("", doc)
	})
}
