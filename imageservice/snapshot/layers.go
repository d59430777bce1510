// Package snapshot keeps unpacked layers and the writable layers of containers, and says how to mount them.
//
// A layer is a directory l/<n>. It holds the difference to the layer below in the form overlayfs wants as a lower
// directory (whiteouts as 0/0 character devices, opaque directories by extended attribute), so it needs no mount to
// make and none to remove. The names are short numbers because the kernel takes at most one page of mount
// options and images may have 127 layers.
//
// A container's root file system is a directory containers/<key> with its writable layer (fs), overlayfs's work
// directory and a small record (root.json) that names the layers below it. Making one costs three mkdir and one
// small file: nothing is synced, because no container outlives a reboot, and the overlay is mounted "volatile"
// for the same reason.
//
// Below the layers of the image may lie one of mount points, see points.go.
//
// What is removed is first renamed into trash/ and then deleted, so a name is free at once and a crash leaves
// nothing that looks alive.
package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

// Layers is the directory of unpacked layers.
type Layers struct {
	dir   string
	trash *Trash
	last  atomic.Int64
}

// OpenLayers opens the layers below root.
func OpenLayers(root string, trash *Trash) (*Layers, error) {
	l := &Layers{dir: filepath.Join(root, "l"), trash: trash}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make layer store: %w", err)
	}
	names, err := l.List()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if n, err := strconv.ParseInt(name, 10, 64); err == nil && n > l.last.Load() {
			l.last.Store(n)
		}
	}
	return l, nil
}

// New makes an empty layer directory and returns its name.
func (l *Layers) New() (string, error) {
	for {
		name := strconv.FormatInt(l.last.Add(1), 10)
		err := os.Mkdir(l.Path(name), 0o755)
		if err == nil {
			// The umask must not decide what containers see as the mode of "/".
			return name, os.Chmod(l.Path(name), 0o755)
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", fmt.Errorf("make layer: %w", err)
		}
	}
}

// Path is the directory of the layer.
func (l *Layers) Path(name string) string { return filepath.Join(l.dir, name) }

// Has reports whether the layer is there.
func (l *Layers) Has(name string) bool {
	if name == "" || name != filepath.Base(name) {
		return false
	}
	fi, err := os.Lstat(l.Path(name))
	return err == nil && fi.IsDir()
}

// List returns the names of all layers.
func (l *Layers) List() ([]string, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Remove makes the layer vanish; its files go when the trash is emptied. Removing what is gone succeeds.
func (l *Layers) Remove(name string) error { return l.trash.Take(l.Path(name)) }

// Trash is where directories wait for their deletion.
type Trash struct {
	dir  string
	next atomic.Int64
}

// OpenTrash opens the trash below root. What an earlier process left in it goes with the next Empty.
func OpenTrash(root string) (*Trash, error) {
	t := &Trash{dir: filepath.Join(root, "trash")}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make trash: %w", err)
	}
	return t, nil
}

// Take moves a directory into the trash. Taking what is gone succeeds.
func (t *Trash) Take(path string) error {
	for {
		err := os.Rename(path, filepath.Join(t.dir, strconv.FormatInt(t.next.Add(1), 10)))
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		case errors.Is(err, fs.ErrExist): // left by an earlier process and not empty
			continue
		case errors.Is(err, errNoRoom):
			return os.RemoveAll(path) // a full disk may refuse even a new directory entry
		}
		return fmt.Errorf("remove %s: %w", path, err)
	}
}

// Empty deletes everything in the trash.
func (t *Trash) Empty() error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(t.dir, e.Name())))
	}
	return errors.Join(errs...)
}
