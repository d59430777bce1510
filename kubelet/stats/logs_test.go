package stats

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLogs: what a container has written to its log counts as its pod's use of the disk.
func TestLogs(t *testing.T) {
	c, _ := newTest(t)
	c.cfg.LogsDir = t.TempDir()
	before, err := c.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(c.cfg.LogsDir, "ns_web_u1", "app")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"0.log", "0.log.20260101-000000"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	after, err := c.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	logs := after.Pods[0].Containers[0].Logs
	if *logs.InodesUsed != 3 || *logs.UsedBytes < 200_000 || *logs.UsedBytes > 300_000 {
		t.Errorf("%d bytes in %d files", *logs.UsedBytes, *logs.InodesUsed)
	}
	if grown := *after.Pods[0].EphemeralStorage.UsedBytes - *before.Pods[0].EphemeralStorage.UsedBytes; grown != *logs.UsedBytes {
		t.Errorf("the pod uses %d more", grown)
	}
}
