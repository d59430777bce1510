// Package apart makes directories whose entries have nothing to do with each other, such as that of all pods.
//
// The ext file systems put a new directory, and what comes into it, near its parent, unless the parent is marked as the top of
// hierarchies (chattr +T; chattr(1) calls it a very good idea for /home): then it goes where there is most room. Pods want that too. Where
// all of them are in one place, what former pods leave there is in the way of new ones: ext4 without a journal looks at each inode of
// the place that was deleted within the last minutes, for every one that it makes.
package apart

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// topDir is FS_TOPDIR_FL of linux/fs.h.
const topDir = 0x00020000

// Make makes the directory and its parents, where they are missing, and marks it. File systems that know no such mark do without.
func Make(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("mark what is in a directory as unrelated: %w", err)
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|topDir)
	}
	return nil
}
