package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// BenchmarkPull pulls an image of 8 layers of 16 MB that hardly compress, from a registry in this process.
func BenchmarkPull(b *testing.B) {
	s := serve(b, false)
	random := rand.NewChaCha8([32]byte{1})
	var layers [][]imagetest.File
	for range 8 {
		var files []imagetest.File
		for f := range 64 {
			body := make([]byte, 256<<10)
			random.Read(body)
			files = append(files, imagetest.File{Name: fmt.Sprintf("f%d", f), Body: string(body)})
		}
		layers = append(layers, files)
	}
	s.push(b, "x", "1", small(b, imagetest.Spec{Layers: layers}))
	for b.Loop() {
		e := open(b, Config{})
		pull(b, e, s.addr+"/x:1")
	}
}

// BenchmarkPrepare prepares and releases root file systems.
func BenchmarkPrepare(b *testing.B) {
	e := open(b, Config{})
	s := serve(b, false)
	img := small(b, imagetest.Spec{})
	s.push(b, "x", "1", img)
	pull(b, e, s.addr+"/x:1")
	n := 0
	for b.Loop() {
		n++
		key := fmt.Sprintf("c%d", n)
		if _, err := e.Prepare(b.Context(), key, img.ID.String(), nil); err != nil {
			b.Fatal(err)
		}
		if err := e.Release(b.Context(), key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList lists 100 images.
func BenchmarkList(b *testing.B) {
	e := open(b, Config{})
	for i := range 100 {
		img := build(b, imagetest.Spec{Names: []string{fmt.Sprintf("i:%d", i)}, Config: imageservice.Config{User: fmt.Sprint(i)}})
		if _, err := e.Import(b.Context(), bytes.NewReader(ociArchive(b, img))); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := e.List(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
