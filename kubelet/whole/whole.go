// Package whole writes files whole or not at all: who is killed meanwhile leaves the old content, and whoever reads
// meanwhile finds the old or the new.
package whole

import (
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path by a temporary file beside it, ".<name>", and a rename. It is not synced: what it is
// for is made anew when the machine has crashed.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(tmp, content, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
