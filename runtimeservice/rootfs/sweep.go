package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Sweep takes down what lies below parent but is not known: each entry with the mounts directly in it.
func Sweep(parent string, known map[string]bool) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		if err := sweepDir(filepath.Join(parent, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func sweepDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := Unmount(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return RemoveFlat(dir)
}

// RemoveFlat removes a directory with its files and empty directories, and nothing that is mounted in it.
func RemoveFlat(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove a directory: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}
