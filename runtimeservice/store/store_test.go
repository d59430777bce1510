package store

import (
	"os"
	"path/filepath"
	"testing"
)

type thing struct{ Name string }

func TestSaveLoadDelete(t *testing.T) {
	dir := t.TempDir()
	d, err := Open[thing](dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "uno"} {
		if err := d.Save(name[:1], thing{name}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := d.Delete("t"); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("torn.json", `{"version":1,"obj`)
	write("new.json", `{"version":99,"object":{}}`)
	write("x.json.tmp", `{`)
	objects, torn, err := d.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 2 || objects["o"].Name != "one" || objects["u"].Name != "uno" {
		t.Errorf("objects: %v", objects)
	}
	if len(torn) != 2 || torn["torn"] == nil || torn["new"] == nil {
		t.Errorf("torn: %v", torn)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}
