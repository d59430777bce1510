package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/utils/cpuset"
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

// among leaves of the list of processors those that the group has: version 1 gives none that its parent has not.
func (l Layout) among(list, group string) string {
	data, err := os.ReadFile(filepath.Join(l.Trees["cpuset"], group, "cpuset.cpus"))
	if err != nil {
		return list
	}
	wanted, err1 := cpuset.Parse(list)
	has, err2 := cpuset.Parse(strings.TrimSpace(string(data)))
	if err1 != nil || err2 != nil {
		return list
	}
	return wanted.Intersection(has).String()
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
