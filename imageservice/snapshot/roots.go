package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

const errNoRoom = syscall.ENOSPC

// Root is the record of one prepared root file system, as written in root.json.
type Root struct {
	Key      string   `json:"key"`
	Image    string   `json:"image"`
	Layers   []string `json:"layers"` // names of layers, lowest first; the lowest may be one of mount points
	ReadOnly bool     `json:"readOnly,omitempty"`
	Boot     string   `json:"boot"` // boot id of the kernel it was made under
}

// Roots is the directory of prepared root file systems.
type Roots struct {
	dir      string
	layers   *Layers
	trash    *Trash
	boot     string
	overlay  []string // options of each overlay mount
	volatile []string // the same, of writable ones
}

// OpenRoots opens the root file systems below root.
func OpenRoots(root string, layers *Layers, trash *Trash) (*Roots, error) {
	if strings.ContainsAny(root, unsafe) {
		return nil, fmt.Errorf("directory %q cannot hold layers: overlay mounts do not take any of %q in paths", root, unsafe)
	}
	r := &Roots{dir: filepath.Join(root, "containers"), layers: layers, trash: trash}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of root file systems: %w", err)
	}
	spread(r.dir)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	r.boot = strings.TrimSpace(string(boot))
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		r.overlay = append(r.overlay, "index=off")
	}
	if kernelAtLeast(5, 10) {
		r.volatile = append(r.volatile, "volatile")
	}
	return r, nil
}

// topDir is FS_TOPDIR_FL of linux/fs.h.
const topDir = 0x00020000

// spread lets an ext file system put each root file system where there is room (chattr +T) instead of all of them into one place. In one
// place, what removed ones leave is in the way: ext4 without a journal looks at each inode there that was deleted within the
// last minutes for every one that it makes. Where it cannot be, things are slower and no different.
func spread(dir string) {
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil && flags&topDir == 0 {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|topDir)
	}
}

// kernelAtLeast compares the release of the running kernel.
func kernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	var a, b int
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}

// unsafe are the characters that mean something in overlay's mount options.
const unsafe = ",:\\"

// ValidKey reports whether key can name a root file system: one path element that needs no escaping.
func ValidKey(key string) bool {
	return key != "" && len(key) <= 200 && key != "." && key != ".." && !strings.ContainsAny(key, "/\x00"+unsafe)
}

// Load reads the records of all root file systems. One whose record is missing or torn is returned with its key
// alone, so that it can be released. One of an earlier boot is returned without its mount points, which may be torn.
func (r *Roots) Load() ([]Root, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, fmt.Errorf("list root file systems: %w", err)
	}
	all := make([]Root, 0, len(entries))
	for _, e := range entries {
		root := Root{Key: e.Name()}
		if b, err := os.ReadFile(r.path(root.Key, "root.json")); err == nil {
			if json.Unmarshal(b, &root) != nil {
				root = Root{}
			}
			root.Key = e.Name()
		}
		if root.Boot != r.boot {
			root.Layers = slices.DeleteFunc(root.Layers, IsPoints)
		}
		all = append(all, root)
	}
	return all, nil
}

// Make makes the directories and the record of a root file system. What is left of an earlier one goes.
func (r *Roots) Make(root Root) error {
	dir := r.path(root.Key, "")
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if err = r.Remove(root.Key); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if err != nil {
		return fmt.Errorf("make root file system: %w", err)
	}
	for _, sub := range []string{"fs", "work"} {
		path := filepath.Join(dir, sub)
		if err := os.Mkdir(path, 0o755); err != nil {
			return fmt.Errorf("make root file system: %w", err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return fmt.Errorf("make root file system: %w", err)
		}
	}
	root.Boot = r.boot
	b, err := json.Marshal(root)
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, "root.json.tmp")
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return fmt.Errorf("record root file system: %w", err)
	}
	return os.Rename(temp, filepath.Join(dir, "root.json"))
}

// Renew readies a root file system that was made before for another mount. The kernel refuses to mount a
// volatile overlay twice because it cannot know whether the machine crashed in between. The boot id knows: in the
// same boot the writable layer is intact and the kernel's mark is taken off, else what is there may be torn and
// is thrown away.
func (r *Roots) Renew(root Root) error {
	if root.Boot != "" && root.Boot != r.boot {
		if err := r.Remove(root.Key); err != nil {
			return err
		}
		return r.Make(root)
	}
	if err := os.RemoveAll(r.path(root.Key, "work/work/incompat")); err != nil {
		return fmt.Errorf("ready root file system for another mount: %w", err)
	}
	return nil
}

// Mounts says how to mount it.
func (r *Roots) Mounts(root Root) []imageservice.Mount {
	bind := func(dir, mode string) []imageservice.Mount {
		return []imageservice.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", mode}}}
	}
	upper := r.path(root.Key, "fs")
	switch {
	case len(root.Layers) == 0 && root.ReadOnly:
		return bind(upper, "ro")
	case len(root.Layers) == 0:
		return bind(upper, "rw")
	case len(root.Layers) == 1 && root.ReadOnly:
		return bind(r.layers.Path(root.Layers[0]), "ro")
	}
	lower := make([]string, 0, len(root.Layers))
	for i := len(root.Layers) - 1; i >= 0; i-- {
		lower = append(lower, r.layers.Path(root.Layers[i]))
	}
	options := append([]string(nil), r.overlay...)
	if root.ReadOnly {
		options = append(options, "ro")
	} else {
		options = append(options, r.volatile...)
		options = append(options, "workdir="+r.path(root.Key, "work"), "upperdir="+upper)
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []imageservice.Mount{{Type: "overlay", Source: "overlay", Options: options}}
}

// Remove makes the root file system vanish; its files go when the trash is emptied. Removing what is gone succeeds.
func (r *Roots) Remove(key string) error { return r.trash.Take(r.path(key, "")) }

// Dir is the directory that holds all root file systems.
func (r *Roots) Dir() string { return r.dir }

func (r *Roots) path(key, sub string) string { return filepath.Join(r.dir, key, sub) }
