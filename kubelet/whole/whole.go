// Package whole writes files whole or not at all: who is killed meanwhile leaves the old content, and whoever reads
// meanwhile finds the old or the new.
package whole

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path by a temporary file beside it, ".<name>", and a rename. It is not synced: what it is
// for is made anew when the machine has crashed.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	return write(path, content, mode, false)
}

// WriteLasting is WriteFile for what has to be read after the machine has crashed as well: the content is on the disk before
// the file has its name.
func WriteLasting(path string, content []byte, mode fs.FileMode) error {
	return write(path, content, mode, true)
}

func write(path string, content []byte, mode fs.FileMode, lasting bool) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if lasting && err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
