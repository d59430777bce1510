package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Layout is where control groups are mounted.
type Layout struct {
	Version Version
	// Trees maps each controller to the root of its tree. In version 2 all have the same root.
	Trees map[string]string
	// Roots are the roots of all trees, also of those without a controller, in which runtimes may make groups too.
	Roots []string
}

// Detect reads the layout of this machine.
func Detect() (Layout, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, err
	}
	defer f.Close()
	l, unified, err := parseMounts(f)
	if err != nil {
		return l, fmt.Errorf("read /proc/self/mountinfo: %w", err)
	}
	if len(l.Trees) > 0 {
		return l, nil
	}
	if unified == "" {
		return l, errors.New("no control groups are mounted: mount cgroup2 at /sys/fs/cgroup")
	}
	data, err := os.ReadFile(filepath.Join(unified, "cgroup.controllers"))
	if err != nil {
		return l, err
	}
	l.Version = V2
	for _, c := range strings.Fields(string(data)) {
		l.Trees[c] = unified
	}
	return l, nil
}

// parseMounts finds the trees of version 1 and the tree of version 2. Of several mounts of a tree the first counts.
func parseMounts(r io.Reader) (l Layout, unified string, err error) {
	l = Layout{Version: V1, Trees: map[string]string{}}
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		before, after, ok := strings.Cut(scan.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		point := left[4]
		switch right[0] {
		case "cgroup2":
			if unified == "" {
				unified = point
				l.Roots = append(l.Roots, point)
			}
		case "cgroup":
			l.tree(point, right[2])
		}
	}
	return l, unified, scan.Err()
}

// tree records a mounted tree of version 1 with its super block options.
func (l *Layout) tree(point, options string) {
	var names []string
	for _, o := range strings.Split(options, ",") {
		name := strings.TrimPrefix(o, "name=")
		if o == "rw" || o == "ro" || o == "xattr" || strings.Contains(name, "=") {
			continue
		}
		names = append(names, name)
	}
	known := true
	for _, name := range names {
		if l.Trees[name] == "" {
			l.Trees[name] = point
			known = false
		}
	}
	if !known && !slices.Contains(l.Roots, point) {
		l.Roots = append(l.Roots, point)
	}
}

// Own is the group of this process, by its /proc/self/cgroup. In version 1 it has one only where cpu and memory agree.
func (l Layout) Own() (string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return own(string(data), l.Version)
}

func own(text string, version Version) (string, error) {
	paths := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	if version == V2 {
		return paths[""], nil
	}
	if paths["cpu"] != paths["memory"] {
		return "", errors.New("cpu and memory cgroup hierarchy not unified")
	}
	return paths["cpu"], nil
}
