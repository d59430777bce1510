package main

import (
	"os"
	"path/filepath"

	"github.com/skiff-node/skiff/test/bench/report"
)

// sizes reports the binaries.
func sizes(b *bench, bin string) {
	var rows []report.Row
	file := func(path string) *report.Stat {
		st, err := os.Stat(path)
		if err != nil {
			return nil
		}
		return report.One(float64(st.Size()) / report.MiB)
	}
	for _, name := range []string{"skiff", "skiff-cri", "skiff-keeper", "skiff-kubelet", "skiff-cni"} {
		if s := file(filepath.Join(bin, name)); s != nil {
			rows = append(rows, report.Row{Name: name, Skiff: s})
		}
	}
	for _, path := range []string{"/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/sbin/runc"} {
		if s := file(path); s != nil {
			rows = append(rows, report.Row{Name: filepath.Base(path), Peer: s})
		}
	}
	b.report.Add("Binaries", "MiB", rows...)
}
