package engine

import (
	"bytes"
	"io"
	"testing"

	ggcrname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// TestForeignArchive imports what another tool writes as a docker archive.
func TestForeignArchive(t *testing.T) {
	img, err := random.Image(1<<10, 3)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Cmd = []string{"/run"}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := tarball.Write(ggcrname.MustParseReference("r.test/foreign:1"), img, &out); err != nil {
		t.Fatal(err)
	}
	e := open(t, Config{})
	got, err := e.Import(t.Context(), &out)
	if err != nil {
		t.Fatal(err)
	}
	id, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].ID != id.String() || got[0].RepoTags[0] != "r.test/foreign:1" || got[0].Config.Cmd[0] != "/run" {
		t.Errorf("got %+v", got)
	}
	if _, err := e.Prepare(t.Context(), "c", got[0].ID, nil); err != nil {
		t.Error(err)
	}
	var back bytes.Buffer
	if err := e.Export(t.Context(), &back, []string{"r.test/foreign:1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(back.Bytes())), nil }, nil); err != nil {
		t.Errorf("another tool cannot read what is exported: %v", err)
	}
}
