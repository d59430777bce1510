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

func TestKindOf(t *testing.T) {
	for _, tc := range []struct {
		mediaType, doc string
		want           Kind
	}{
		{"application/vnd.oci.image.index.v1+json", "", Index},
		{"application/vnd.docker.distribution.manifest.list.v2+json", "", Index},
		{"application/vnd.oci.image.manifest.v1+json", "", Manifest},
		{"application/vnd.docker.distribution.manifest.v2+json", "", Manifest},
		{"", `{"manifests":[]}`, Index},
		{"application/octet-stream", `{"config":{},"layers":[]}`, Manifest},
		{"", `{"config":{},"layers":[],"manifests":[]}`, Unknown}, // CVE-2021-41190: one document, two readings
		{"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"fsLayers":[]}`, Unknown},
		{"", `noise`, Unknown},
	} {
		if got := KindOf(tc.mediaType, []byte(tc.doc)); got != tc.want {
			t.Errorf("KindOf(%q, %q) is %d", tc.mediaType, tc.doc, got)
		}
	}
}

func TestPick(t *testing.T) {
	at := func(s string) ocispec.Descriptor {
		d := ocispec.Descriptor{Digest: digest.FromString(s)}
		if s != "" {
			p := platforms.MustParse(s)
			d.Platform = &p
		}
		return d
	}
	attestation := ocispec.Descriptor{Digest: "a", Platform: &ocispec.Platform{OS: "unknown", Architecture: "unknown"}}
	for _, tc := range []struct {
		machine string
		index   []string
		want    string
	}{
		{"linux/amd64", []string{"linux/arm64", "linux/amd64"}, "linux/amd64"},
		{"linux/arm64", []string{"linux/arm/v7", "linux/arm64", "linux/amd64"}, "linux/arm64"},
		{"linux/arm/v7", []string{"linux/arm/v6", "linux/arm/v7"}, "linux/arm/v7"},
		{"linux/arm/v7", []string{"linux/arm/v6"}, "linux/arm/v6"},
		{"linux/amd64", []string{"", "linux/amd64"}, "linux/amd64"},
		{"linux/amd64", []string{""}, ""},
	} {
		index := ocispec.Index{Manifests: []ocispec.Descriptor{attestation}}
		for _, s := range tc.index {
			index.Manifests = append(index.Manifests, at(s))
		}
		got, err := Pick(index, platforms.Only(platforms.MustParse(tc.machine)), tc.machine)
		if err != nil || got[0].Digest != digest.FromString(tc.want) {
			t.Errorf("%s of %v: %v, %v", tc.machine, tc.index, got, err)
		}
	}
	_, err := Pick(ocispec.Index{Manifests: []ocispec.Descriptor{attestation, at("linux/arm64"), at("windows/amd64")}}, platforms.Only(platforms.MustParse("linux/amd64")), "linux/amd64")
	if !errors.Is(err, imageservice.ErrWrongPlatform) || !strings.Contains(err.Error(), "this machine is linux/amd64, the image has linux/arm64, windows/amd64") {
		t.Errorf("got %v", err)
	}
}

func TestParse(t *testing.T) {
	good := digest.FromString("x").String()
	for doc, ok := range map[string]bool{
		`{"config":{"digest":"` + good + `","size":1},"layers":[{"digest":"` + good + `","size":1}]}`: true,
		`{"config":{"digest":"` + good + `"},"layers":[{"digest":"../../x","size":1}]}`:               false,
		`{"config":{"digest":"` + good + `"},"layers":[{"digest":"` + good + `","size":-1}]}`:         false,
		`{}`: false, `[`: false,
	} {
		if _, err := Parse([]byte(doc)); (err == nil) != ok || err != nil && !errors.Is(err, imageservice.ErrCorrupt) {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	machine := platforms.Only(platforms.MustParse("linux/amd64"))
	a, b := digest.FromString("a"), digest.FromString("b")
	doc := `{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":["` + a.String() + `","` + b.String() + `"]},"config":{"Volumes":{"/z":{},"/y":{}}}}`
	img, err := ParseConfig([]byte(doc), 2, machine, "linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	if img.ChainIDs[0] != a || img.ChainIDs[1] != digest.FromString(a.String()+" "+b.String()) {
		t.Errorf("chain %v", img.ChainIDs)
	}
	if len(img.Config.Volumes) != 2 || img.Config.Volumes[0] != "/y" {
		t.Errorf("volumes %v", img.Config.Volumes)
	}
	for name, tc := range map[string]struct {
		doc    string
		layers int
		want   error
	}{
		"layers differ": {doc, 1, imageservice.ErrCorrupt},
		"platform":      {strings.Replace(doc, "amd64", "s390x", 1), 2, imageservice.ErrWrongPlatform},
		"bad diff id":   {strings.Replace(doc, a.String(), "x", 1), 2, imageservice.ErrCorrupt},
		"noise":         {"noise", 0, imageservice.ErrCorrupt},
		"no platform":   {`{"rootfs":{}}`, 0, nil},
	} {
		if _, err := ParseConfig([]byte(tc.doc), tc.layers, machine, "linux/amd64"); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
