package harness

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Inventory is everything on a host that a node can leave behind, by kind, one line each.
type Inventory map[string][]string

// Inventory takes stock: links, routes, nftables, mounts, cgroups, processes, sysctls and files.
func (h *Host) Inventory() Inventory {
	h.t.Helper()
	inv := Inventory{
		"links":    lines(h.MustRun("ip", "-o", "link", "show"), secondField),
		"routes":   lines(h.MustRun("ip", "route", "show", "table", "all"), nil),
		"nftables": lines(h.MustRun("nft", "list", "tables"), nil),
		"mounts":   lines(h.MustRun("cat", "/proc/self/mounts"), nil),
		"sysctls":  lines(h.MustRun("cat", "/proc/sys/net/ipv4/ip_forward"), nil),
		"files":    h.files(),
	}
	for _, root := range h.cgroupRoots() {
		inv["cgroups"] = append(inv["cgroups"], dirs(root)...)
	}
	for _, pid := range h.Processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		inv["processes"] = append(inv["processes"], fmt.Sprintf("%d %s", pid, strings.ReplaceAll(string(cmdline), "\x00", " ")))
	}
	return inv
}

// secondField is the name in a line of `ip -o link`; the rest changes with numbers and states.
func secondField(l string) string {
	if fields := strings.Fields(l); len(fields) > 1 {
		return fields[1]
	}
	return l
}

func lines(s string, cut func(string) string) []string {
	var out []string
	for l := range strings.Lines(s) {
		l = strings.TrimSpace(l)
		if cut != nil {
			l = cut(l)
		}
		if l != "" {
			out = append(out, l)
		}
	}
	sort.Strings(out)
	return out
}

// files lists what the host has written: the upper layers of its overlays, /run and /var/lib/skiff. A directory that the
// machine has too is in an upper layer as soon as something in it changes, and says nothing.
func (h *Host) files() []string {
	out := append(walk(filepath.Join(h.Dir, "state"), "state"), walk(h.Path("/run"), "run")...)
	for _, d := range []string{"etc", "var", "opt", "root"} {
		upper := filepath.Join(h.Dir, d, "upper")
		for _, f := range walk(upper, d) {
			rel := strings.TrimPrefix(f, d+"/")
			if isDir(filepath.Join(upper, rel)) && isDir(filepath.Join("/", d, rel)) {
				continue
			}
			out = append(out, f)
		}
	}
	return out
}

func isDir(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

func walk(root, label string) []string {
	var out []string
	filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if rel, rerr := filepath.Rel(root, p); err == nil && rerr == nil && p != root {
			out = append(out, label+"/"+rel)
		}
		return nil
	})
	return out
}

// Diff tells what b has that a has not, and the other way round; "" when they are alike.
func (a Inventory) Diff(b Inventory) string {
	keys := map[string]bool{}
	for k := range a {
		keys[k] = true
	}
	for k := range b {
		keys[k] = true
	}
	var out strings.Builder
	for k := range keys {
		only(&out, k+" gone", a[k], b[k])
		only(&out, k+" new", b[k], a[k])
	}
	return out.String()
}

func only(w *strings.Builder, label string, a, b []string) {
	have := map[string]int{}
	for _, s := range b {
		have[s]++
	}
	for _, s := range a {
		if have[s]--; have[s] < 0 {
			fmt.Fprintf(w, "%s: %s\n", label, s)
		}
	}
}
