// Package atomic writes a set of files so that a reader sees either all of the old ones or all of the new ones, in the
// layout that upstream's kubelet uses for configMap, secret, downwardAPI and projected volumes and that programs rely on:
//
//	<dir>/..2026_11_22_20_05_04.123456789/    the files of one version
//	<dir>/..data -> ..2026_11_22_20_05_04.123456789
//	<dir>/key -> ..data/key                   a link for each first path element
//
// A new version is written beside the old one and becomes current by renaming a link over ..data. Programs watch for
// that rename (IN_MOVED_TO of ..data), so it happens only when the content really changed.
package atomic

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// File is the content, mode bits and owner of one file. A nil User leaves root as the owner.
type File struct {
	Data []byte
	Mode int32
	User *int64
}

// Files maps paths below the volume's root to files.
type Files map[string]File

const (
	current = "..data"
	next    = "..data_tmp"
	stamp   = "..2006_01_02_15_04_05."
)

// Validate says why path cannot be a file of a volume, or nil.
func Validate(path string) error {
	switch {
	case path == "":
		return errors.New("path is empty")
	case filepath.IsAbs(path):
		return fmt.Errorf("path %q must be relative", path)
	case len(path) > 4096:
		return fmt.Errorf("path of %d bytes is longer than 4096", len(path))
	case strings.HasPrefix(path, ".."):
		return fmt.Errorf("path %q must not start with \"..\"", path)
	}
	for _, element := range strings.Split(path, "/") {
		if element == ".." {
			return fmt.Errorf("path %q must not contain \"..\"", path)
		}
		if len(element) > 255 {
			return fmt.Errorf("path %q has an element longer than 255 bytes", path)
		}
	}
	return nil
}

// Write makes files the content of dir, which must exist. group, when not nil, owns the files and may read them, as
// fsGroup wants. It reports whether the content changed. It may be interrupted anywhere and called again.
func Write(dir string, files Files, group *int64) (changed bool, err error) {
	clean := make(Files, len(files))
	for path, f := range files {
		if err := Validate(path); err != nil {
			return false, err
		}
		clean[filepath.Clean(path)] = f
	}
	old, err := os.Readlink(filepath.Join(dir, current))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("find the current version: %w", err)
	}
	if old == "" || !same(filepath.Join(dir, old), clean) {
		if old, err = publish(dir, clean, group); err != nil {
			return false, err
		}
		changed = true
	}
	if err := link(dir, clean); err != nil {
		return changed, err
	}
	return changed, sweep(dir, old, clean)
}

// same reports whether the version at dir has exactly these files with this content.
func same(dir string, files Files) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want, ok := files[name]
		if !ok || !bytes.Equal(data, want.Data) {
			return errDiffers
		}
		seen++
		return nil
	})
	return err == nil && seen == len(files)
}

var errDiffers = errors.New("differs")

// publish writes a new version and makes it current; it returns the version's name.
func publish(dir string, files Files, group *int64) (string, error) {
	version, err := os.MkdirTemp(dir, time.Now().UTC().Format(stamp))
	if err != nil {
		return "", fmt.Errorf("make a new version: %w", err)
	}
	if err := fill(version, files, group); err != nil {
		return "", errors.Join(err, os.RemoveAll(version))
	}
	name, tmp := filepath.Base(version), filepath.Join(dir, next)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("remove the link of an interrupted write: %w", err)
	}
	if err := os.Symlink(name, tmp); err != nil {
		return "", fmt.Errorf("link the new version: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, current)); err != nil {
		return "", fmt.Errorf("make the new version current: %w", err)
	}
	return name, nil
}

func fill(version string, files Files, group *int64) error {
	if err := own(version, 0o755, nil, group); err != nil {
		return err
	}
	made := map[string]bool{".": true}
	for path, f := range files {
		if err := directories(version, filepath.Dir(path), made, group); err != nil {
			return err
		}
		full := filepath.Join(version, path)
		if err := os.WriteFile(full, f.Data, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if err := own(full, fs.FileMode(f.Mode)&fs.ModePerm, f.User, group); err != nil {
			return err
		}
	}
	return nil
}

func directories(version, dir string, made map[string]bool, group *int64) error {
	if made[dir] {
		return nil
	}
	if err := directories(version, filepath.Dir(dir), made, group); err != nil {
		return err
	}
	made[dir] = true
	full := filepath.Join(version, dir)
	if err := os.Mkdir(full, 0o755); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	return own(full, 0o755, nil, group)
}

// own sets owner and mode. A group may read all, and enter directories, whose new files become the group's.
func own(path string, mode fs.FileMode, user, group *int64) error {
	uid, gid := -1, -1
	if user != nil {
		uid = int(*user)
	}
	if group != nil {
		gid = int(*group)
		mode |= 0o440
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
	}
	if uid != -1 || gid != -1 {
		if err := os.Lchown(path, uid, gid); err != nil {
			return fmt.Errorf("set the owner of %s: %w", path, err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("set the mode of %s: %w", path, err)
	}
	return nil
}

// link makes the visible link of each first path element.
func link(dir string, files Files) error {
	for _, name := range tops(files) {
		path, target := filepath.Join(dir, name), filepath.Join(current, name)
		if have, err := os.Readlink(path); err == nil && have == target {
			continue
		}
		if err := os.Symlink(target, path); err != nil {
			return fmt.Errorf("make %s visible: %w", name, err)
		}
	}
	return nil
}

// sweep removes links to what is no longer there, and versions other than the current one: the previous and those that
// interrupted writes left.
func sweep(dir, version string, files Files) error {
	keep := map[string]bool{current: true, version: true}
	for _, name := range tops(files) {
		keep[name] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for former files: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if keep[e.Name()] || !ours(path, e) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove former %s: %w", e.Name(), err)
		}
	}
	return nil
}

// ours tells what Write made from other things in the directory, such as mount points of nested volumes.
func ours(path string, e fs.DirEntry) bool {
	if strings.HasPrefix(e.Name(), "..") {
		return true
	}
	target, err := os.Readlink(path)
	return err == nil && strings.HasPrefix(target, current+"/")
}

func tops(files Files) []string {
	set := map[string]bool{}
	for path := range files {
		top, _, _ := strings.Cut(path, "/")
		set[top] = true
	}
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
