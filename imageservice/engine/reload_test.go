package engine

import (
	"testing"
	"time"
)

func TestReload(t *testing.T) {
	e, err := New(Config{Root: t.TempDir(), Pinned: []string{"a/*"}, StallTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	Reload(e, Settings{CertsDirs: []string{"/certs"}, DockerConfig: "/docker", Pinned: []string{"b/*"}})
	if c := current(e); c.CertsDirs[0] != "/certs" || c.DockerConfig != "/docker" || c.Pinned[0] != "b/*" || c.StallTimeout != defaultStall || c.Root == "" {
		t.Errorf("%+v", c)
	}
	if e.catalog.pinned[0] != "b/*" {
		t.Errorf("pinned: %v", e.catalog.pinned)
	}
}
