package main

import (
	"context"
	"fmt"
	"net"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/images"
)

const (
	pullLayers = 8
	pullSize   = 16 * report.MiB
	pullRounds = 3
)

// pulls fetches and unpacks one image after the other from a registry in this process, each of layers that the server
// has never seen, and removes it again.
func pulls(b *bench, peers []*peer) error {
	b.say("making images of %d layers of %d MiB", pullLayers, pullSize/report.MiB)
	set, err := images.Layers(pullLayers, pullSize, 1, 2, 3)
	if err != nil {
		return err
	}
	reg, err := images.Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	b.Cleanup(func() { reg.Close() })
	for i, img := range set[:pullRounds] {
		if _, err := reg.Push("bench/layers", fmt.Sprintf("v%d", i), img); err != nil {
			return err
		}
	}
	for _, p := range peers {
		err := p.host.InNetwork(func() error {
			l, err := net.Listen("tcp", reg.Addr)
			if err == nil {
				reg.Also(l)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("serve images in the host: %w", err)
		}
	}
	taken := map[*peer]timings{}
	for _, p := range peers {
		taken[p] = timings{}
	}
	for i := range pullRounds {
		for _, p := range peers {
			b.say("pull on %s: %d of %d", p.name, i+1, pullRounds)
			if err := p.pull(b, taken[p], fmt.Sprintf("%s/bench/layers:v%d", reg.Addr, i)); err != nil {
				return err
			}
		}
	}
	r := report.Row{Name: fmt.Sprintf("pull and unpack %d × %d MiB, %d images", pullLayers, pullSize/report.MiB, pullRounds), Goal: "≤ 900 ms"}
	for _, p := range peers {
		*p.side(&r) = report.Stats(taken[p]["PullImage"])
	}
	b.report.Add("Pull", "ms", r)
	return nil
}

// pull fetches an image and removes it.
func (p *peer) pull(b *bench, into timings, ref string) error {
	image := &runtimeapi.ImageSpec{Image: ref}
	err := p.call(b, into, "PullImage", func(ctx context.Context) error {
		_, err := p.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: image})
		return err
	})
	if err != nil {
		return err
	}
	return p.call(b, into, "RemoveImage", func(ctx context.Context) error {
		_, err := p.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: image})
		return err
	})
}
