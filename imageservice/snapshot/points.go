package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-node/skiff/imageservice"
)

// A layer of mount points is an empty tree: the directories and empty files that the mounts of a container need, and
// nothing with content. It lies below all layers of the image, so that whatever the image has wins (a link, a file in the
// place of a directory, a whiteout, an opaque directory), and it serves all containers whose mounts go to the same
// places. Without it each runtime makes what the image lacks in the container's writable layer: some nine inodes on
// disk, made in each start and removed again with the container.
//
// Its name is made of what it holds and of the boot id. So a layer that a crash of the machine may have torn is never
// used again; it goes when the store is opened.

// pointsPrefix sets these layers apart from those of images, whose names are numbers.
const pointsPrefix = "p"

// IsPoints reports whether that is the name of a layer of mount points.
func IsPoints(layer string) bool { return strings.HasPrefix(layer, pointsPrefix) }

// OnPoints returns the root file system with the layer of these mount points below its layers; or as it is where there is
// nothing to gain (no points), no layer to put it below, or no room: the mount options should fit into one page, which
// kernels before Linux 6.5 need.
func (r *Roots) OnPoints(root Root, points []imageservice.Point) (Root, bool) {
	if len(points) == 0 || len(root.Layers) == 0 {
		return root, false
	}
	with := root
	with.Layers = append([]string{r.pointsName(points)}, root.Layers...)
	if len(strings.Join(r.Mounts(with)[0].Options, ",")) > os.Getpagesize()-spare {
		return root, false
	}
	return with, true
}

// spare is the room that is left for options which are added to a mount: an SELinux label, those of a handler.
const spare = 512

// pointsName is the name of the layer of these mount points under this kernel. It fits into mount options as it is.
func (r *Roots) pointsName(points []imageservice.Point) string {
	lines := make([]string, 0, len(points))
	for _, p := range points {
		lines = append(lines, fmt.Sprintf("%q %t\n", p.Path, p.Dir))
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(r.boot + "\n" + strings.Join(lines, "")))
	return pointsPrefix + hex.EncodeToString(sum[:16])
}

// MakePoints makes the layer of mount points that lies below a root file system, unless it is there. It is built under
// the name of a layer that nobody knows, which goes with the next start, and then renamed: what has the name is whole.
func (r *Roots) MakePoints(root Root, points []imageservice.Point) (err error) {
	name := root.Layers[0]
	if r.layers.Has(name) {
		return nil
	}
	temp, err := r.layers.New()
	if err != nil {
		return err
	}
	if err := makePoints(r.layers.Path(temp), points); err != nil {
		return errors.Join(fmt.Errorf("make mount points: %w", err), r.layers.Remove(temp))
	}
	err = os.Rename(r.layers.Path(temp), r.layers.Path(name))
	if errors.Is(err, fs.ErrExist) { // another container was faster
		return r.layers.Remove(temp)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make mount points: %w", err), r.layers.Remove(temp))
	}
	return nil
}

// makePoints makes the mount points below dir, with the modes that runc gives them, whatever the umask is.
func makePoints(dir string, points []imageservice.Point) error {
	for _, p := range points {
		name := strings.TrimPrefix(p.Path, "/")
		if !filepath.IsLocal(name) || name == "." {
			return fmt.Errorf("%q cannot be a mount point", p.Path)
		}
		path := filepath.Join(dir, name)
		parent := path
		if !p.Dir {
			parent = filepath.Dir(path)
		}
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return err
		}
		if p.Dir {
			continue
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}
