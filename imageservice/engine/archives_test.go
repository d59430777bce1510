package engine

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

func open(t testing.TB, cfg Config) *Engine {
	t.Helper()
	if cfg.Root == "" {
		cfg.Root = t.TempDir()
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func build(t testing.TB, s imagetest.Spec) imagetest.Image {
	t.Helper()
	img, err := imagetest.Build(s)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func ociArchive(t testing.TB, images ...imagetest.Image) []byte {
	t.Helper()
	b, err := imagetest.OCIArchive(images...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestImportAndPrepare(t *testing.T) {
	e := open(t, Config{})
	img := build(t, imagetest.Spec{
		Names:  []string{"hello:1"},
		Layers: [][]imagetest.File{{{Name: "bin/"}, {Name: "bin/a", Body: "one"}}, {{Name: "bin/b", Body: "two"}}},
		Config: imageservice.Config{Cmd: []string{"/bin/a"}},
	})
	got, err := e.Import(t.Context(), bytes.NewReader(ociArchive(t, img)))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].ID != img.ID.String() || got[0].RepoTags[0] != "docker.io/library/hello:1" {
		t.Fatalf("got %+v", got)
	}
	m, err := e.Prepare(t.Context(), "c1", got[0].ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 1 || m[0].Type != "overlay" {
		t.Fatalf("got %+v", m)
	}
	lower := strings.Split(strings.TrimPrefix(m[0].Options[len(m[0].Options)-1], "lowerdir="), ":")
	if b, err := os.ReadFile(filepath.Join(lower[0], "bin/b")); err != nil || string(b) != "two" {
		t.Errorf("%q, %v", b, err)
	}
	if err := e.Release(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
}

func TestSuite(t *testing.T) {
	imagetest.Run(t, func(t *testing.T) imageservice.Service { return open(t, Config{}) })
}
