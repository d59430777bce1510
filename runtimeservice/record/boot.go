package record

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/skiff-node/skiff/runtimeservice/rootfs"
)

// CheckBoot deletes the records of the given kinds, which are directories below dir, when the machine has been started
// anew since they were written, and says whether it did.
func CheckBoot(dir string, kinds ...string) (anew bool, err error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, fmt.Errorf("read the id of this boot: %w", err)
	}
	path := filepath.Join(dir, "boot")
	last, err := os.ReadFile(path)
	if err == nil && string(last) == string(boot) {
		return false, nil
	}
	if anew = err == nil; anew {
		for _, kind := range kinds {
			if err := rootfs.RemoveFlat(filepath.Join(dir, kind)); err != nil {
				return anew, err
			}
			if err := os.MkdirAll(filepath.Join(dir, kind), 0o700); err != nil {
				return anew, err
			}
		}
	}
	return anew, os.WriteFile(path, boot, 0o600)
}
