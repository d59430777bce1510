package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Make makes a group in every tree, with nothing limited.
func (l Layout) Make(group string) error {
	if l.Version == V2 {
		return l.handDown(group)
	}
	for _, root := range l.Roots {
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			return err
		}
	}
	return l.inheritSets(group)
}

// inheritSets gives a group the processors and the memory of its parents, without which version 1 takes no process into it.
func (l Layout) inheritSets(group string) error {
	dir := l.Trees["cpuset"]
	if dir == "" {
		return nil
	}
	for _, step := range strings.Split(strings.Trim(group, "/"), "/") {
		above := dir
		dir = filepath.Join(dir, step)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return err
			}
			if strings.TrimSpace(string(have)) != "" {
				continue
			}
			theirs, err := os.ReadFile(filepath.Join(above, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), theirs, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// handDown makes the group and hands the controllers of version 2 down to it, step by step: a child has a controller only when its
// parent's subtree_control says so.
func (l Layout) handDown(group string) error {
	dir := l.Trees["cpu"]
	var enable []string
	for _, c := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		if l.Trees[c] != "" {
			enable = append(enable, "+"+c)
		}
	}
	for _, step := range strings.Split(strings.Trim(group, "/"), "/") {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(strings.Join(enable, " ")), 0); err != nil {
			return err
		}
		dir = filepath.Join(dir, step)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
