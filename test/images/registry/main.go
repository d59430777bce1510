// Command registry serves the project's images on loopback: registry LISTEN BINDIR. Every image is there under the tags
// v1 and v2, which differ in a label, and once more below private/, for those who know the password. The images that critest asks for are there too, by their upstream names.
package main

import (
	"fmt"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/skiff-node/skiff/test/images"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: registry LISTEN BINDIR")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(listen, dir string) error {
	imgs, err := images.Catalog(dir)
	if err != nil {
		return err
	}
	r, err := images.Serve(listen)
	if err != nil {
		return err
	}
	for ref, img := range imgs {
		repo := "skiff/" + strings.TrimSuffix(path.Base(ref), ":v1")
		for _, tag := range []string{"v1", "v2"} {
			labelled, err := label(img, tag)
			if err != nil {
				return err
			}
			if err := push(r, repo, tag, labelled); err != nil {
				return err
			}
		}
	}
	critest, err := images.CRITest(dir)
	if err != nil {
		return err
	}
	for ref, img := range critest {
		repo, tag, _ := strings.Cut(ref, ":")
		if _, err := r.Push(repo, tag, img); err != nil {
			return err
		}
	}
	fmt.Println("ready", r.Addr)
	select {}
}

// push puts the image where everybody gets it, and where a password is asked for.
func push(r *images.Registry, repo, tag string, img v1.Image) error {
	for _, in := range []string{repo, "private/" + path.Base(repo)} {
		if _, err := r.Push(in, tag, img); err != nil {
			return err
		}
	}
	return nil
}

func label(img v1.Image, tag string) (v1.Image, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.Config.Labels = map[string]string{"tag": tag}
	return mutate.ConfigFile(img, cfg)
}
