package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Layers makes images of n gzip layers, each one file of size bytes that compresses to about a half, for measuring
// pulls. No layer of one is a layer of another: seed makes them differ.
func Layers(n int, size int64, seeds ...uint64) ([]v1.Image, error) {
	data := halfRandom(size)
	body, err := squeeze(data)
	if err != nil {
		return nil, err
	}
	var out []v1.Image
	for _, seed := range seeds {
		img := empty.Image
		for i := range n {
			l, err := bigLayer(fmt.Sprintf("layer-%d-%d", seed, i), size, body)
			if err != nil {
				return nil, fmt.Errorf("make layer: %w", err)
			}
			if img, err = mutate.AppendLayers(img, l); err != nil {
				return nil, fmt.Errorf("append layer: %w", err)
			}
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		cfg = cfg.DeepCopy()
		cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
		if img, err = mutate.ConfigFile(img, cfg); err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// halfRandom is every second kilobyte random, the others zero.
func halfRandom(size int64) []byte {
	data, rnd := make([]byte, size), rand.New(rand.NewPCG(1, 2))
	for i := range data {
		if i/1024%2 == 0 {
			data[i] = byte(rnd.Uint32())
		}
	}
	return data
}

// bigLayer joins gzip members, which together are one stream: the header of the file, its content (compressed once for
// all layers) and the end of the archive.
func bigLayer(name string, size int64, body []byte) (v1.Layer, error) {
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return nil, err
	}
	first, err := squeeze(head.Bytes())
	if err != nil {
		return nil, err
	}
	last, err := squeeze(make([]byte, 1024+(512-size%512)%512))
	if err != nil {
		return nil, err
	}
	whole := bytes.Join([][]byte{first, body, last}, nil)
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole)), nil })
}

func squeeze(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
