package record

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCheckBoot(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "sandboxes", "x.json")
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	there := func() bool { _, err := os.Stat(kept); return err == nil }
	for _, step := range []struct {
		boot          string // what is written down; "" leaves it
		anew, remains bool
	}{{"", false, true}, {"", false, true}, {"another boot", true, false}, {"", false, true}} {
		if err := os.WriteFile(kept, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if step.boot != "" {
			if err := os.WriteFile(filepath.Join(dir, "boot"), []byte(step.boot), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		anew, err := CheckBoot(dir, "sandboxes")
		if err != nil || anew != step.anew || there() != step.remains {
			t.Errorf("%+v: %v, there %v, %v", step, anew, there(), err)
		}
	}
}
