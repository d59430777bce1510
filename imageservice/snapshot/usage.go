package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// Usage walks the writable layer of key and adds up what it takes on disk. A file with several names counts once.
func (r *Roots) Usage(ctx context.Context, key string) (bytes, inodes int64, err error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	err = filepath.WalkDir(r.path(key, "fs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return gone(err)
		}
		fi, err := d.Info()
		if err != nil {
			return gone(err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		id := inode{uint64(st.Dev), st.Ino}
		if st.Nlink > 1 && !d.IsDir() && seen[id] {
			return nil
		}
		if st.Nlink > 1 {
			seen[id] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("measure writable layer of %s: %w", key, err)
	}
	return bytes, inodes, nil
}

// gone forgives what vanished under the walk: the container is running.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
