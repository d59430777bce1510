package engine

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
	"github.com/skiff-node/skiff/imageservice/snapshot"
)

// usual are the mount points of an ordinary container.
var usual = []imageservice.Point{
	{Path: "/proc", Dir: true}, {Path: "/dev", Dir: true}, {Path: "/sys", Dir: true},
	{Path: "/etc/hosts"}, {Path: "/etc/hostname"}, {Path: "/etc/resolv.conf"},
	{Path: "/var/run/secrets/kubernetes.io/serviceaccount", Dir: true},
}

// usualTree is what tree says of them.
const usualTree = `drwxr-xr-x 
drwxr-xr-x /dev
drwxr-xr-x /etc
-rw-r--r-- /etc/hostname
-rw-r--r-- /etc/hosts
-rw-r--r-- /etc/resolv.conf
drwxr-xr-x /proc
drwxr-xr-x /sys
drwxr-xr-x /var
drwxr-xr-x /var/run
drwxr-xr-x /var/run/secrets
drwxr-xr-x /var/run/secrets/kubernetes.io
drwxr-xr-x /var/run/secrets/kubernetes.io/serviceaccount
`

// pointsBelow is the layer of mount points below a root file system, or "".
func pointsBelow(t *testing.T, m imageservice.Mount) string {
	t.Helper()
	lower := lowerDirs(m)
	if len(lower) == 0 || !snapshot.IsPoints(filepath.Base(lower[len(lower)-1])) {
		return ""
	}
	for _, dir := range lower[:len(lower)-1] {
		if snapshot.IsPoints(filepath.Base(dir)) {
			t.Errorf("mount points lie above a layer: %v", lower)
		}
	}
	return lower[len(lower)-1]
}

func prepare(t *testing.T, e *Engine, key, id string, points []imageservice.Point) imageservice.Mount {
	t.Helper()
	mounts, err := e.Prepare(t.Context(), key, id, points)
	if err != nil {
		t.Fatal(err)
	}
	return mounts[0]
}

// tree lists what is below dir, with the modes.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			fmt.Fprintf(&out, "%v %s\n", fi.Mode(), strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPointsAreShared(t *testing.T) {
	old := syscall.Umask(0o077) // which must not matter
	defer syscall.Umask(old)
	e := open(t, Config{})
	one, two := importOne(t, e, imagetest.Spec{Names: []string{"one"}}), importOne(t, e, imagetest.Spec{Names: []string{"two"}, Config: imageservice.Config{User: "2"}})
	first := prepare(t, e, "a", one.ID, usual)
	layer := pointsBelow(t, first)
	if got := tree(t, layer); got != usualTree {
		t.Errorf("the layer holds\n%swant\n%s", got, usualTree)
	}
	turned := slices.Clone(usual)
	slices.Reverse(turned)
	if got := pointsBelow(t, prepare(t, e, "b", two.ID, turned)); got != layer {
		t.Errorf("the same mount points lie in %s and in %s", layer, got)
	}
	if got := pointsBelow(t, prepare(t, e, "c", one.ID, append(slices.Clone(usual[1:]), imageservice.Point{Path: "/proc"}))); got == layer || got == "" {
		t.Errorf("another set of mount points lies in %q", got)
	}
	if got := prepare(t, e, "a", one.ID, usual); !slices.Equal(got.Options, first.Options) {
		t.Errorf("prepared again: %v; first %v", got.Options, first.Options)
	}
	for key, points := range map[string][]imageservice.Point{"none": nil, "empty": {}} {
		if got := pointsBelow(t, prepare(t, e, key, one.ID, points)); got != "" {
			t.Errorf("%s: a layer of no mount points: %s", key, got)
		}
	}
}

// TestPointsGo: a layer of mount points outlives the container that it was made for, and goes when no container is on it at a
// start or a sweep.
func TestPointsGo(t *testing.T) {
	e := open(t, Config{})
	img := importOne(t, e, imagetest.Spec{Names: []string{"x"}})
	layer := pointsBelow(t, prepare(t, e, "a", img.ID, usual))
	if err := e.Release(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	there := func(want bool, when string) {
		t.Helper()
		if _, err := os.Stat(layer); (err == nil) != want {
			t.Errorf("%s: %v", when, err)
		}
	}
	there(true, "after the last container on it is gone")
	mounts := prepare(t, e, "b", img.ID, usual)
	e = reopen(t, e)
	there(true, "after a restart, in use")
	if again := prepare(t, e, "b", img.ID, usual); !slices.Equal(again.Options, mounts.Options) {
		t.Errorf("mounts %v; before %v", again.Options, mounts.Options)
	}
	if err := e.Retain(t.Context(), []string{"b"}); err != nil {
		t.Fatal(err)
	}
	there(true, "retained")
	if err := e.Release(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	there(true, "released")
	e = reopen(t, e)
	there(false, "after a restart, in use by nobody")
	prepare(t, e, "c", img.ID, usual)
	there(true, "made anew")
	if err := e.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	there(false, "nothing retained")
	prepare(t, e, "d", img.ID, usual)
	if err := e.Remove(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	there(true, "the image is gone, the container not")
}

// TestPointsOfAnEarlierBoot: the machine may have crashed and torn them, so they are not used again.
func TestPointsOfAnEarlierBoot(t *testing.T) {
	e := open(t, Config{})
	img := importOne(t, e, imagetest.Spec{})
	layer := pointsBelow(t, prepare(t, e, "a", img.ID, usual))
	record := filepath.Join(e.cfg.Root, "containers/a/root.json")
	var root snapshot.Root
	b, err := os.ReadFile(record)
	if err == nil {
		err = json.Unmarshal(b, &root)
	}
	if err != nil || len(root.Layers) < 2 || !snapshot.IsPoints(root.Layers[0]) {
		t.Fatalf("%v, %+v", err, root)
	}
	root.Boot = "earlier"
	if b, err = json.Marshal(root); err == nil {
		err = os.WriteFile(record, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	e = reopen(t, e)
	if _, err := os.Stat(layer); err == nil {
		t.Error("the layer is still there")
	}
	mount := prepare(t, e, "a", img.ID, usual)
	if got := pointsBelow(t, mount); got != "" {
		t.Errorf("a root file system of an earlier boot lies on %s", got)
	}
	for _, dir := range lowerDirs(mount) {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestPointsMadeAtOnce: many containers begin with the same mount points, and one layer comes of it.
func TestPointsMadeAtOnce(t *testing.T) {
	e := open(t, Config{})
	img := importOne(t, e, imagetest.Spec{})
	before := leftovers(t, e.cfg.Root)
	var all sync.WaitGroup
	for n := range 32 {
		all.Go(func() {
			mounts, err := e.Prepare(t.Context(), fmt.Sprint(n), img.ID, usual)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(filepath.Join(pointsBelow(t, mounts[0]), "var/run/secrets/kubernetes.io/serviceaccount")); err != nil {
				t.Errorf("the layer is not whole: %v", err)
			}
		})
	}
	all.Wait()
	if after := leftovers(t, e.cfg.Root); len(after) != len(before)+1 {
		t.Errorf("before %v, after %v", before, after)
	}
}

// TestPointsLeftOut: a container starts without a layer of mount points where it cannot be.
func TestPointsLeftOut(t *testing.T) {
	e := open(t, Config{})
	img := importOne(t, e, imagetest.Spec{})
	before := leftovers(t, e.cfg.Root)
	for name, points := range map[string][]imageservice.Point{
		"outside":       {{Path: "/../../x", Dir: true}},
		"root":          {{Path: "/", Dir: true}},
		"relative":      {{Path: "..", Dir: true}},
		"below a file":  {{Path: "/a"}, {Path: "/a/b", Dir: true}},
		"long name":     {{Path: "/" + strings.Repeat("n", 256)}},
		"both a kind":   {{Path: "/a", Dir: true}, {Path: "/a"}},
		"zero byte":     {{Path: "/a\x00b", Dir: true}},
		"no path":       {{Dir: true}},
		"path too long": {{Path: strings.Repeat("/n", 4096), Dir: true}},
	} {
		if got := pointsBelow(t, prepare(t, e, name, img.ID, points)); got != "" {
			t.Errorf("%s: %s", name, tree(t, got))
		}
	}
	if after := leftovers(t, e.cfg.Root); !slices.Equal(after, before) {
		t.Errorf("before %v, after %v", before, after)
	}
	none := importOne(t, e, imagetest.Spec{Names: []string{"none"}, Layers: [][]imagetest.File{}})
	if m := prepare(t, e, "none", none.ID, usual); m.Type != "bind" {
		t.Errorf("an image without layers: %+v", m)
	}
	var layers [][]imagetest.File
	for i := range 200 {
		layers = append(layers, []imagetest.File{{Name: "n", Body: fmt.Sprint(i)}})
	}
	many := importOne(t, e, imagetest.Spec{Names: []string{"many"}, Layers: layers})
	if m := prepare(t, e, "many", many.ID, usual); pointsBelow(t, m) != "" || len(lowerDirs(m)) != len(layers) {
		t.Errorf("an image whose layers fill the page: %+v", m)
	}
}
