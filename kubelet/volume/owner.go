package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// What a volume's group may do with its files, beside what their modes say already.
const (
	groupWrites = fs.FileMode(0o660)
	groupReads  = fs.FileMode(0o440)
	groupEnters = fs.FileMode(0o110)
)

// Own gives everything below dir to the group, which may read it and, unless the volume is read-only, write it; new files
// in its directories become the group's too (securityContext.fsGroup). With the policy OnRootMismatch nothing is done
// where the root of the volume is so already: it is changed last, so what it says holds for all. Group nil changes nothing.
func Own(dir string, group *int64, policy *v1.PodFSGroupChangePolicy, readOnly bool) error {
	if group == nil {
		return nil
	}
	rights := groupWrites
	if readOnly {
		rights = groupReads
	}
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch && owned(dir, *group, rights|groupEnters) {
		return nil
	}
	if err := own(dir, int(*group), rights); err != nil {
		return fmt.Errorf("give the volume to group %d: %w", *group, err)
	}
	return nil
}

func owned(dir string, group int64, rights fs.FileMode) bool {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(st.Gid) == group && info.Mode().Perm()&rights == rights && info.Mode()&fs.ModeSetgid != 0
}

// own changes a tree from its leaves up. A file that goes away meanwhile needs nothing; a file system that knows no owners
// or is read-only is left as it is, as upstream does.
func own(path string, group int, rights fs.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil {
		return gone(err)
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return gone(err)
		}
		for _, e := range entries {
			if err := own(filepath.Join(path, e.Name()), group, rights); err != nil {
				return err
			}
		}
		rights |= groupEnters | fs.ModeSetgid
	}
	if err := os.Lchown(path, -1, group); err != nil {
		return gone(err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	return gone(os.Chmod(path, info.Mode()|rights))
}

func gone(err error) error {
	for _, harmless := range []error{fs.ErrNotExist, syscall.EROFS, syscall.EOPNOTSUPP, syscall.EPERM} {
		if errors.Is(err, harmless) {
			return nil
		}
	}
	return err
}
