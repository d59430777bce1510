//go:build root

package harness

import (
	"os"
	"strings"
	"testing"
)

// TestHostLeavesNothing makes a host, dirties it, and asks whether the machine is as before.
func TestHostLeavesNothing(t *testing.T) {
	t.Setenv("SKIFF_BIN", fakeBin(t))
	before, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	dir := ""
	t.Run("host", func(t *testing.T) {
		h := NewHost(t)
		dir = h.Dir
		inv := h.Inventory()
		h.MustRun("sh", "-c", "touch /etc/x /run/y /var/lib/skiff/z; ip link add br0 type bridge; nft add table ip q; sleep 1000 >/dev/null 2>&1 &")
		diff := inv.Diff(h.Inventory())
		for _, want := range []string{"links new: br0:", "nftables new: table ip q", "files new: etc/x", "files new: run/y", "files new: state/z", "processes new:"} {
			if !strings.Contains(diff, want) {
				t.Errorf("inventory misses %q in:\n%s", want, diff)
			}
		}
		if out, err := h.Outside("ping", "-c1", "-W2", h.IP); err != nil {
			t.Logf("ping: %v %s", err, out)
		}
		if _, err := os.Stat("/etc/x"); err == nil {
			t.Error("the host writes to the machine's /etc")
		}
	})
	after, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("mounts changed:\n%s\n%s", before, after)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
}

func fakeBin(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/skiff", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
