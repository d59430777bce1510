package engine

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// reopen closes the engine and opens its store again, as after a restart.
func reopen(t *testing.T, e *Engine) *Engine {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, e.cfg)
}

func importOne(t *testing.T, e *Engine, spec imagetest.Spec) imageservice.Image {
	t.Helper()
	got, err := e.Import(t.Context(), bytes.NewReader(ociArchive(t, small(t, spec))))
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

func TestRestart(t *testing.T) {
	e := open(t, Config{Pinned: []string{"*/kept:*"}})
	img := importOne(t, e, imagetest.Spec{Names: []string{"r.test/kept:1", "x"}, Config: imageservice.Config{User: "9"}})
	mounts, err := e.Prepare(t.Context(), "c", img.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	e = reopen(t, e)
	again, err := e.Get(t.Context(), "x")
	if err != nil || again.ID != img.ID || !slices.Equal(again.RepoTags, img.RepoTags) || again.Config.User != "9" || !again.Pinned {
		t.Errorf("after a restart: %+v, %v; before: %+v", again, err, img)
	}
	same, err := e.Prepare(t.Context(), "c", img.ID, nil)
	if err != nil || !slices.Equal(same[0].Options, mounts[0].Options) {
		t.Errorf("mounts %v, %v; before %v", same, err, mounts)
	}
	// The image goes, the container stays, over another restart.
	if err := e.Remove(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	e = reopen(t, e)
	same, err = e.Prepare(t.Context(), "c", img.ID, nil)
	if err != nil || !slices.Equal(same[0].Options, mounts[0].Options) {
		t.Errorf("mounts %v, %v; before %v", same, err, mounts)
	}
	lower := strings.Split(strings.TrimPrefix(mounts[0].Options[len(mounts[0].Options)-1], "lowerdir="), ":")
	for _, dir := range lower {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a layer in use is gone: %v", err)
		}
	}
	if err := e.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestKilled puts into the store what a process killed at any moment may leave, and finds it gone.
func TestKilled(t *testing.T) {
	e := open(t, Config{})
	img := importOne(t, e, imagetest.Spec{Names: []string{"x"}})
	before := leftovers(t, e.cfg.Root)
	root := e.cfg.Root
	for path, body := range map[string]string{
		"blobs/sha256/" + strings.Repeat("a", 64): "a whole blob without a name",
		"ingest/blob-1": "half a blob",
		"l/77/file":     "half a layer",
		"trash/1/file":  "half deleted",
		"images/" + strings.Repeat("b", 64) + ".json.tmp":  "half a record",
		"containers/torn/root.json":                        "{",
		"containers/half/fs/file":                          "no record yet",
		"containers/" + strings.Repeat("c", 64) + "/fs/.x": "no record yet",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o700), os.WriteFile(filepath.Join(root, path), []byte(body), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	e = reopen(t, e)
	if after := leftovers(t, root); !slices.Equal(withoutTemp(after), before) {
		t.Errorf("left %v, want %v", after, before)
	}
	// A key whose record is torn can be prepared anew and is swept.
	if _, err := e.Prepare(t.Context(), "half", img.ID, nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "containers/half/fs/file")); err == nil {
		t.Error("the new container sees files of an old one")
	}
	if err := e.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "containers")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	reopen(t, e) // waits for the deleting
	eventually(t, func() bool {
		left, err := os.ReadDir(filepath.Join(root, "trash"))
		return err == nil && len(left) == 0
	})
}

func withoutTemp(paths []string) []string {
	return slices.DeleteFunc(paths, func(p string) bool { return strings.HasSuffix(p, ".tmp") })
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come true")
		}
	}
}

// TestTorn damages an image in each way a crash of the machine can. It is never run, and pulling brings it back.
func TestTorn(t *testing.T) {
	s := serve(t, false)
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "1", img)
	for name, damage := range map[string]func(root string) error{
		"blob missing": func(root string) error {
			return os.Remove(filepath.Join(root, "blobs/sha256", img.Layers[0].Digest.Encoded()))
		},
		"blob cut short": func(root string) error {
			return os.Truncate(filepath.Join(root, "blobs/sha256", img.Layers[1].Digest.Encoded()), 10)
		},
		"manifest empty": func(root string) error {
			return os.Truncate(filepath.Join(root, "blobs/sha256", img.Manifest.Digest.Encoded()), 0)
		},
		"layer missing": func(root string) error { return os.RemoveAll(filepath.Join(root, "l/2")) },
		"record empty": func(root string) error {
			return os.Truncate(filepath.Join(root, "images", img.ID.Encoded()+".json"), 0)
		},
		"record of a later version": func(root string) error {
			return os.WriteFile(filepath.Join(root, "images", img.ID.Encoded()+".json"), []byte(`{"version":99}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			e := open(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
			pull(t, e, s.addr+"/x:1")
			if err := damage(e.cfg.Root); err != nil {
				t.Fatal(err)
			}
			e = reopen(t, e)
			if _, err := e.Get(t.Context(), s.addr+"/x:1"); !errors.Is(err, imageservice.ErrNotFound) {
				t.Errorf("the torn image is offered: %v", err)
			}
			if !strings.Contains(log.String(), "pull it again") {
				t.Errorf("the log says %q", log.String())
			}
			got := pull(t, e, s.addr+"/x:1")
			if _, err := e.Prepare(t.Context(), "c", got.ID, nil); err != nil {
				t.Error(err)
			}
			if what := e.pool.missing(e.catalog.Records()[0]); what != "" {
				t.Errorf("after pulling again there is no %s", what)
			}
		})
	}
}

// TestTornUnderWay damages an image while the service runs.
func TestTornUnderWay(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "1", img)
	got := pull(t, e, s.addr+"/x:1")
	if err := os.RemoveAll(filepath.Join(e.cfg.Root, "l/1")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Prepare(t.Context(), "c", got.ID, nil); !errors.Is(err, imageservice.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	pull(t, e, s.addr+"/x:1")
	if _, err := e.Prepare(t.Context(), "c", got.ID, nil); err != nil {
		t.Error(err)
	}
	// Bits that flipped in a manifest are seen when it is used again, and it is fetched again.
	path := filepath.Join(e.cfg.Root, "blobs/sha256", img.Manifest.Digest.Encoded())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[10] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	pull(t, e, s.addr+"/x:1")
}

func TestSecondProcess(t *testing.T) {
	e := open(t, Config{})
	if _, err := New(Config{Root: e.cfg.Root}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second engine opened the store: %v", err)
	}
	if _, err := New(Config{Root: "relative"}); err == nil {
		t.Error("a relative root was taken")
	}
}

// TestRebootDiscards prepares a root file system whose writable layer stems from another boot.
func TestRebootDiscards(t *testing.T) {
	e := open(t, Config{})
	img := importOne(t, e, imagetest.Spec{})
	if _, err := e.Prepare(t.Context(), "c", img.ID, nil); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(e.cfg.Root, "containers/c")
	record := filepath.Join(dir, "root.json")
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b, []byte(`"boot":"`)) + len(`"boot":"`)
	b[i] ^= 1
	if err := errors.Join(os.WriteFile(record, b, 0o600), os.WriteFile(filepath.Join(dir, "fs/torn"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	e = reopen(t, e)
	if _, err := e.Prepare(t.Context(), "c", img.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "fs/torn")); err == nil {
		t.Error("files of another boot were kept")
	}
}

// TestSharedLayers removes one of two images that share a layer.
func TestSharedLayers(t *testing.T) {
	e := open(t, Config{})
	base := []imagetest.File{{Name: "base", Body: "b"}}
	one := importOne(t, e, imagetest.Spec{Names: []string{"one"}, Layers: [][]imagetest.File{base, {{Name: "1", Body: "1"}}}})
	importOne(t, e, imagetest.Spec{Names: []string{"two"}, Layers: [][]imagetest.File{base, {{Name: "2", Body: "2"}}}})
	dirs := func() int {
		names, err := e.pool.layers.List()
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if n := dirs(); n != 3 {
		t.Errorf("%d layers, want 3", n)
	}
	if err := e.Remove(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if n := dirs(); n != 2 {
		t.Errorf("%d layers, want 2", n)
	}
	if _, err := e.Prepare(t.Context(), "c", one.ID, nil); err != nil {
		t.Error(err)
	}
}

func TestCancelledPull(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	s.push(t, "x", "1", small(t, imagetest.Spec{}))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := e.Pull(ctx, imageservice.PullRequest{Reference: s.addr + "/x:1", Progress: func(p imageservice.Progress) {
		if p.Stage == "unpacking" {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestConcurrentKeys prepares and releases the same keys from many sides, while the image is removed and comes back.
func TestConcurrentKeys(t *testing.T) {
	e := open(t, Config{})
	archive := ociArchive(t, small(t, imagetest.Spec{Names: []string{"x"}}))
	img := importOne(t, e, imagetest.Spec{Names: []string{"x"}})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 20 {
				key := "c" + string(rune('a'+i%3))
				mounts, err := e.Prepare(t.Context(), key, img.ID, nil)
				switch {
				case errors.Is(err, imageservice.ErrNotFound):
				case err != nil || len(mounts) != 1:
					t.Errorf("%v, %v", mounts, err)
				}
				if i%2 == 0 {
					if err := e.Release(t.Context(), key); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Go(func() {
		for range 10 {
			if err := e.Remove(t.Context(), "x"); err != nil {
				t.Error(err)
			}
			if _, err := e.Import(t.Context(), bytes.NewReader(archive)); err != nil {
				t.Error(err)
			}
		}
	})
	group.Wait()
	if what := e.pool.missing(e.catalog.Records()[0]); what != "" {
		t.Errorf("the image lost its %s", what)
	}
	if err := errors.Join(e.Retain(t.Context(), nil), e.Remove(t.Context(), "x")); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}
