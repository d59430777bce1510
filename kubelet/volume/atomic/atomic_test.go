package atomic

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// visible reads what a container sees: every path reached from the root without passing a "..".
func visible(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	var walk func(string)
	walk = func(rel string) {
		entries, err := os.ReadDir(filepath.Join(dir, rel))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if rel == "" && strings.HasPrefix(e.Name(), "..") {
				continue
			}
			path := filepath.Join(rel, e.Name())
			info, err := os.Stat(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			if info.IsDir() {
				walk(path)
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			got[path] = string(data)
		}
	}
	walk("")
	return got
}

func files(pairs ...string) Files {
	f := Files{}
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i]] = File{Data: []byte(pairs[i+1]), Mode: 0o640}
	}
	return f
}

func hidden(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "..2*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestWriteReplacesAllAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before Files
		after  Files
	}{
		{"first", nil, files("a", "1", "b/c", "2")},
		{"changed", files("a", "1"), files("a", "2")},
		{"removed", files("a", "1", "b", "2"), files("a", "1")},
		{"removed below a directory", files("d/a", "1", "d/b", "2"), files("d/a", "1")},
		{"file becomes directory", files("a", "1"), files("a/b", "2")},
		{"emptied", files("a", "1"), Files{}},
		{"unclean path", nil, files("a//b/./c", "1")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.before != nil {
				if _, err := Write(dir, tc.before, nil); err != nil {
					t.Fatal(err)
				}
			}
			changed, err := Write(dir, tc.after, nil)
			if err != nil || !changed {
				t.Fatalf("changed %v, err %v", changed, err)
			}
			got := visible(t, dir)
			if len(got) != len(tc.after) {
				t.Errorf("got %v, want %v", got, tc.after)
			}
			for path, f := range tc.after {
				if got[filepath.Clean(path)] != string(f.Data) {
					t.Errorf("%s: %q, want %q", path, got[filepath.Clean(path)], f.Data)
				}
			}
			if v := hidden(t, dir); len(v) != 1 {
				t.Errorf("versions left: %v", v)
			}
			link, _ := os.Readlink(filepath.Join(dir, "..data"))
			if changed, err := Write(dir, tc.after, nil); changed || err != nil {
				t.Errorf("second write: changed %v, err %v", changed, err)
			}
			if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != link {
				t.Errorf("..data moved without a change: %s, %s", link, again)
			}
		})
	}
}

func TestWriteMendsWhatAnInterruptedOneLeft(t *testing.T) {
	dir := t.TempDir()
	if _, err := Write(dir, files("a", "1"), nil); err != nil {
		t.Fatal(err)
	}
	for _, mess := range []func() error{
		func() error { return os.Symlink("..2000", filepath.Join(dir, "..data_tmp")) },
		func() error { return os.Mkdir(filepath.Join(dir, "..2020_01_01_00_00_00.1"), 0o755) },
		func() error { return os.Remove(filepath.Join(dir, "a")) },
		func() error { return os.Symlink("..data/gone", filepath.Join(dir, "gone")) },
		func() error { return os.Mkdir(filepath.Join(dir, "nested"), 0o755) },
	} {
		if err := mess(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Write(dir, files("a", "1"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, files("a", "2"), nil); err != nil {
		t.Fatal(err)
	}
	if got := visible(t, dir); len(got) != 1 || got["a"] != "2" {
		t.Errorf("got %v", got)
	}
	if v := hidden(t, dir); len(v) != 1 {
		t.Errorf("versions left: %v", v)
	}
	if _, err := os.Lstat(filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link to nothing is still there")
	}
	if _, err := os.Lstat(filepath.Join(dir, "nested")); err != nil {
		t.Errorf("mount point of a nested volume was removed: %v", err)
	}
}

func TestMode(t *testing.T) {
	dir := t.TempDir()
	if _, err := Write(dir, Files{"a": {Mode: 0o400}, "d/b": {Mode: 0o777}}, nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{"a": 0o400, "d/b": 0o777, "d": 0o755 | fs.ModeDir, "..data/": 0o755 | fs.ModeDir} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v, want %v", path, info.Mode(), err, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for path, ok := range map[string]bool{
		"a": true, "a/b": true, ".hidden": true, "a/..b": true,
		"": false, "/a": false, "..a": false, "..": false, "a/../b": false, "../a": false,
		strings.Repeat("x", 256): false, strings.Repeat("x/", 2049): false,
	} {
		if err := Validate(path); (err == nil) != ok {
			t.Errorf("%.20q: %v", path, err)
		}
	}
	if _, err := Write(t.TempDir(), files("../x", "1"), nil); err == nil {
		t.Error("wrote outside")
	}
}
