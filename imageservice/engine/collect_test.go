package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// TestCollectionTakesNothingInUse lets many sides pull, import, remove, prepare and release images that share layers, in
// random order and all at once. A root file system that was prepared keeps each of its layers until it is released,
// whatever the others do; at the end nothing is left.
func TestCollectionTakesNothingInUse(t *testing.T) {
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	s, e := serve(t, false), open(t, Config{})
	base := []imagetest.File{{Name: "base", Body: "base"}}
	var images []imagetest.Image
	var archives [][]byte
	for i := range 4 {
		name := fmt.Sprintf("own%d", i)
		spec := imagetest.Spec{Names: []string{name}, Layers: [][]imagetest.File{base, {{Name: "pair", Body: fmt.Sprint(i / 2)}}, {{Name: name, Body: name}}}}
		img := small(t, spec)
		s.push(t, name, "1", img)
		images, archives = append(images, img), append(archives, ociArchive(t, img))
	}
	a := artifact(t, imagetest.File{Name: "file", Body: "artifact"})
	s.push(t, "artifact", "1", a)
	var group sync.WaitGroup
	for w := range 6 {
		c := &collector{t: t, e: e, s: s, images: images, archives: archives, artifact: a, worker: w, rnd: rand.New(rand.NewPCG(seed, uint64(w)))}
		group.Go(func() {
			for range 80 {
				c.step()
			}
			c.releaseAll()
		})
	}
	group.Wait()
	for _, img := range append(images, a) {
		if err := e.Remove(t.Context(), img.ID.String()); err != nil {
			t.Error(err)
		}
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	if len(e.pool.held) != 0 || len(e.pool.chains) != 0 || len(e.pool.strays) != 0 {
		t.Errorf("the pool still knows %v, %v, %v", e.pool.held, e.pool.chains, e.pool.strays)
	}
}

// collector is one of the sides. The keys it holds are its own.
type collector struct {
	t        *testing.T
	e        *Engine
	s        *server
	images   []imagetest.Image
	archives [][]byte
	artifact imagetest.Image
	worker   int
	rnd      *rand.Rand
	next     int
	held     map[string][]string // by key: lower directories
}

func (c *collector) step() {
	i := c.rnd.IntN(len(c.images))
	var err error
	switch c.rnd.IntN(6) {
	case 0:
		_, err = c.e.Pull(c.t.Context(), imageservice.PullRequest{Reference: fmt.Sprintf("%s/own%d:1", c.s.addr, i)})
	case 1:
		_, err = c.e.Import(c.t.Context(), bytes.NewReader(c.archives[i]))
	case 2:
		err = c.e.Remove(c.t.Context(), c.images[i].ID.String())
	case 3:
		if _, err = c.e.Pull(c.t.Context(), imageservice.PullRequest{Reference: c.s.addr + "/artifact:1"}); err == nil {
			err = c.prepare(c.artifact.ID.String(), c.e.View)
		}
	case 4:
		err = c.prepare(c.images[i].ID.String(), func(ctx context.Context, key, id string) ([]imageservice.Mount, error) {
			return c.e.Prepare(ctx, key, id, []imageservice.Point{{Path: fmt.Sprintf("/%d", i), Dir: true}, {Path: "/etc/hosts"}})
		})
	case 5:
		c.releaseOne()
	}
	// An image may be gone at any moment, also the one that was just pulled.
	if err != nil && !errors.Is(err, imageservice.ErrNotFound) {
		c.t.Errorf("worker %d: %v", c.worker, err)
	}
	c.check()
}

func (c *collector) check() {
	for key, lower := range c.held {
		for _, dir := range lower {
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) == 0 {
				c.t.Errorf("worker %d: a layer of %s was taken: %s: %v", c.worker, key, filepath.Base(dir), err)
			}
		}
	}
}

func (c *collector) releaseOne() {
	for key := range c.held {
		if err := c.e.Release(c.t.Context(), key); err != nil {
			c.t.Error(err)
		}
		delete(c.held, key)
		return
	}
}

func (c *collector) releaseAll() {
	for len(c.held) > 0 {
		c.releaseOne()
	}
}

// lowerDirs are the layers below a root file system.
func lowerDirs(m imageservice.Mount) []string {
	if m.Type == "bind" {
		return []string{m.Source}
	}
	for _, o := range m.Options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return strings.Split(dirs, ":")
		}
	}
	return nil
}

func (c *collector) prepare(id string, how func(context.Context, string, string) ([]imageservice.Mount, error)) error {
	c.next++
	key := fmt.Sprintf("w%d-%d", c.worker, c.next)
	mounts, err := how(c.t.Context(), key, id)
	if err != nil {
		return err
	}
	if c.held == nil {
		c.held = map[string][]string{}
	}
	c.held[key] = lowerDirs(mounts[0])
	return nil
}
