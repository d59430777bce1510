package engine

import (
	"testing"
	"time"

	"github.com/skiff-node/skiff/imageservice/imagetest"
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
}

func TestPinned(t *testing.T) {
	e := open(t, Config{Pinned: []string{"*/kept:*"}})
	importOne(t, e, imagetest.Spec{Names: []string{"r.test/kept:1", "busybox"}})
	for pattern, want := range map[string]bool{"": false, "r.test/kept:1": true, "r.test/*": true, "r.test/kept": false, "other:*": false, "docker.io/library/busybox:latest": true, "busybox": true, "busy*": false} {
		Reload(e, Settings{Pinned: []string{pattern}})
		if all, err := e.List(t.Context()); err != nil || all[0].Pinned != want {
			t.Errorf("%q: %+v, %v", pattern, all, err)
		}
	}
}
