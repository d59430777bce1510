package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// tree makes, limits and removes groups.
type tree struct {
	root   string // the group below which kubepods lies
	layout Layout
	units  Units // nil with the cgroupfs driver
}

// Version is the version of control groups in use.
func (t *tree) Version() Version { return t.layout.Version }

// Dir is the directory of a group in the tree of a controller, "" when there is no such tree.
func (t *tree) Dir(controller, group string) string {
	root := t.layout.Trees[controller]
	if root == "" {
		return ""
	}
	return filepath.Join(root, group)
}

// group is the path of kubepods, or of what is below it.
func (t *tree) group(below ...string) string {
	group := filepath.Join("/", t.root, top, filepath.Join(below...))
	if t.units != nil {
		return expand(group)
	}
	return group
}

func (t *tree) podGroup(class Class, uid types.UID) string {
	return t.group(tier(class), "pod"+string(uid))
}

// existing is the path of a group that the operator names.
func (t *tree) existing(name string) string {
	name = filepath.Join("/", name)
	if t.units == nil {
		return name
	}
	return expand(strings.ReplaceAll(strings.TrimSuffix(filepath.Base(name), slice), "-", "/"))
}

func (t *tree) exists(group string) bool {
	for _, c := range needed() {
		if _, err := os.Stat(t.Dir(c, group)); err != nil {
			return false
		}
	}
	return true
}

// ensure makes the group in each tree it needs, and limits it.
func (t *tree) ensure(group string, limits Limits) error {
	if t.units != nil {
		if err := t.units.Ensure(filepath.Base(group), parent(group), Properties(t.layout.Version, limits)); err != nil {
			return err
		}
	}
	files := Files(t.layout.Version, limits)
	if t.layout.Version == V2 {
		if err := t.layout.handDown(group); err != nil {
			return err
		}
		return t.write(group, files)
	}
	for _, c := range append(needed(), "hugetlb") { // also with systemd, which makes no group in a tree it knows nothing of
		dir := t.Dir(c, group)
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return t.write(group, files)
}

// ensureCPUs makes the group where processors are limited, if they are to be, and tells which of them it can have. In version 2 the
// group is there already, and may be told of any.
func (t *tree) ensureCPUs(group, list string) (string, error) {
	dir := t.Dir("cpuset", group)
	if list == "" || t.layout.Version == V2 || dir == "" {
		return list, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return list, err
	}
	if err := t.layout.inheritSets(group); err != nil {
		return list, err
	}
	return t.layout.among(list, filepath.Dir(group)), nil // by now the parent has some
}

// set limits a group that exists.
func (t *tree) set(group string, limits Limits) error {
	if t.units != nil {
		if err := t.units.Set(filepath.Base(group), Properties(t.layout.Version, limits)); err != nil {
			return err
		}
	}
	return t.write(group, Files(t.layout.Version, limits))
}

// restrict limits a group that others have made. They need not have made it where huge pages are limited: systemd does not.
// On which processors it runs is theirs to say, though upstream's gives it all.
func (t *tree) restrict(group string, limits Limits) error {
	pages := Limits{HugePages: limits.HugePages}
	limits.HugePages, limits.CPUs = nil, ""
	if err := t.set(group, limits); err != nil {
		return err
	}
	files := slices.DeleteFunc(Files(t.layout.Version, pages), func(f File) bool {
		_, err := os.Stat(filepath.Join(t.Dir(f.Controller, group), f.Name))
		return errors.Is(err, fs.ErrNotExist)
	})
	return t.write(group, files)
}

func (t *tree) write(group string, files []File) error {
	for _, f := range files {
		dir := t.Dir(f.Controller, group)
		if dir == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), []byte(f.Value), 0); err != nil {
			return fmt.Errorf("write %q: %w", f.Value, err)
		}
	}
	return nil
}

// remove removes a group from every tree.
func (t *tree) remove(ctx context.Context, group string) error {
	if t.units != nil && slices.ContainsFunc(t.layout.Roots, func(root string) bool { return isDir(filepath.Join(root, group)) }) {
		if err := t.units.Stop(filepath.Base(group)); err != nil {
			return err
		}
	}
	for _, root := range t.layout.Roots { // also of what systemd did not make
		if err := removeTree(ctx, filepath.Join(root, group)); err != nil {
			return err
		}
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// podsIn adds the pods that have a group in group. A tree without pods has no such directory.
func (t *tree) podsIn(root, group string, into map[types.UID]bool) {
	entries, _ := os.ReadDir(filepath.Join(root, group))
	for _, e := range entries {
		name := e.Name()
		if t.units != nil {
			name = strings.TrimSuffix(strings.TrimPrefix(name, strings.TrimSuffix(filepath.Base(group), slice)+"-"), slice)
			name = strings.ReplaceAll(name, "_", "-")
		}
		if uid, ok := strings.CutPrefix(name, "pod"); ok && e.IsDir() {
			into[types.UID(uid)] = true
		}
	}
}

// removeTree removes a group and those below it. The kernel refuses (EBUSY) while a process is in it.
func removeTree(ctx context.Context, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(ctx, filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; processes in it: %s", err, processes(dir))
		case <-time.After(pause):
		}
	}
}

func processes(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(data)), " ")
}
