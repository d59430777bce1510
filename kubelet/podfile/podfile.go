// Package podfile keeps what has to outlive the kubelet about a pod. Each kind of fact is one JSON file in the pod's directory: it is
// written whole, it is there as long as the pod is, and goes with it.
package podfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// Kind of files, one for each pod, with a T in each. What a T must not be it refuses in its UnmarshalJSON.
type Kind[T any] struct {
	// PodsDir holds the pods' directories.
	PodsDir string
	// Name of the files.
	Name string
	// Says is what a file tells, in the words of an error: "which CPUs the pod has".
	Says string
	// Early files are written before anything else is in the pod's directory, so it is made for them. Others are not written where
	// there is no directory: the pod is being taken down.
	Early bool
	// Lasting files are on the disk before Save returns, for what has to be right after the machine has crashed as well.
	Lasting bool
}

func (k Kind[T]) path(uid types.UID) string { return filepath.Join(k.PodsDir, string(uid), k.Name) }

// Load reads the pod's file; ok is false when it has none. A damaged file is an error for which there is a *whole.Damaged; it is not
// mended, as nobody knows what it said: it goes with the pod.
func (k Kind[T]) Load(uid types.UID) (v T, ok bool, err error) {
	v, err = whole.ReadJSON[T](k.path(uid))
	var damaged *whole.Damaged
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v, false, nil
	case errors.As(err, &damaged):
		return v, false, fmt.Errorf("read %s: %w; deleting pod %s removes it", k.Says, err, uid)
	case err != nil:
		return v, false, fmt.Errorf("read %s: %w", k.Says, err)
	}
	return v, true, nil
}

// All reads the files of all pods.
func (k Kind[T]) All() (map[types.UID]T, error) {
	paths, err := filepath.Glob(filepath.Join(k.PodsDir, "*", k.Name))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k.Says, err)
	}
	all := make(map[types.UID]T, len(paths))
	for _, path := range paths {
		uid := types.UID(filepath.Base(filepath.Dir(path)))
		v, ok, err := k.Load(uid)
		if err != nil {
			return nil, err
		}
		if ok { // it has not gone meanwhile
			all[uid] = v
		}
	}
	return all, nil
}

// Save writes the pod's file.
func (k Kind[T]) Save(uid types.UID, v T) error {
	path := k.path(uid)
	if k.Early {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return fmt.Errorf("note %s: make the pod's directory: %w", k.Says, err)
		}
	}
	write := whole.WriteJSON
	if k.Lasting {
		write = whole.WriteLastingJSON
	}
	err := write(path, v)
	if errors.Is(err, fs.ErrNotExist) && !k.Early {
		return nil
	}
	if err != nil {
		return fmt.Errorf("note %s: %w", k.Says, err)
	}
	return nil
}

// Remove removes the pod's file, if it has one.
func (k Kind[T]) Remove(uid types.UID) error {
	if err := os.Remove(k.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", k.Says, err)
	}
	return nil
}
