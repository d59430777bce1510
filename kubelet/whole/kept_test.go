package whole

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	k := Keep(path)
	save := func(v any, fails error) error { return k.Save(func() (any, error) { return v, fails }) }
	read := func() string {
		raw, _ := os.ReadFile(path)
		return string(raw)
	}
	if err := save(1, nil); err != nil || read() != "1" {
		t.Fatalf("%q %v", read(), err)
	}
	if err := os.WriteFile(path, []byte("as it was"), 0o600); err != nil { // to be seen to stay
		t.Fatal(err)
	}
	if err := save(1, nil); err != nil || read() != "as it was" {
		t.Errorf("what had not changed was written: %q %v", read(), err)
	}
	bad := errors.New("bad")
	if err := save(2, bad); !errors.Is(err, bad) || read() != "as it was" {
		t.Errorf("%q %v", read(), err)
	}
	if err := save(2, nil); err != nil || read() != "2" {
		t.Errorf("%q %v", read(), err)
	}
	if err := save(make(chan int), nil); err == nil || read() != "2" {
		t.Errorf("%q %v", read(), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := save(3, nil); err == nil {
		t.Error("a directory was written")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := save(3, nil); err != nil || read() != "3" { // it was not counted as written
		t.Errorf("%q %v", read(), err)
	}
}
