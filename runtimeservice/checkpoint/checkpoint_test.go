package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDiffThereAndBack writes a directory as changes and applies them to another.
func TestDiffThereAndBack(t *testing.T) {
	upper, root := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(upper, "etc", "app"), 0o750))
	must(t, os.WriteFile(filepath.Join(upper, "etc", "app", "conf"), []byte("new"), 0o640))
	must(t, os.Symlink("app/conf", filepath.Join(upper, "etc", "link")))
	past := time.Unix(1e9, 0)
	must(t, os.Chtimes(filepath.Join(upper, "etc", "app", "conf"), past, past))
	must(t, os.MkdirAll(filepath.Join(root, "etc", "app"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "etc", "app", "conf"), []byte("old and longer"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "gone"), nil, 0o644))
	var b bytes.Buffer
	deleted, err := writeDiff(upper, &b)
	if err != nil || len(deleted) > 0 {
		t.Fatal(deleted, err)
	}
	must(t, applyDiff(root, &b, []string{"gone"}))
	text, err := os.ReadFile(filepath.Join(root, "etc", "link"))
	if err != nil || string(text) != "new" {
		t.Errorf("%q, %v", text, err)
	}
	st, err := os.Stat(filepath.Join(root, "etc", "app", "conf"))
	if err != nil || st.Mode().Perm() != 0o640 || !st.ModTime().Equal(past) {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := os.Stat(filepath.Join(root, "gone")); err == nil {
		t.Error("a deleted file is there")
	}
}

// TestHostileDiffs: an archive that came from elsewhere cannot write outside of the root.
func TestHostileDiffs(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"absolute name":    {{Name: "/evil", Typeflag: tar.TypeReg}},
		"dots":             {{Name: "../evil", Typeflag: tar.TypeReg}},
		"through a link":   {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/evil", Typeflag: tar.TypeReg}},
		"absolute link":    {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "out/evil", Typeflag: tar.TypeReg}},
		"directory by one": {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "out/evil", Typeflag: tar.TypeDir, Mode: 0o755}},
	} {
		dir := t.TempDir()
		root := filepath.Join(dir, "root")
		must(t, os.Mkdir(root, 0o755))
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Uid, h.Gid = os.Getuid(), os.Getgid()
			must(t, w.WriteHeader(&h))
		}
		must(t, w.Close())
		err := applyDiff(root, &b, nil)
		for _, evil := range []string{filepath.Join(dir, "evil"), "/evil"} {
			if _, found := os.Lstat(evil); found == nil {
				t.Errorf("%s: %s was written, %v", name, evil, err)
			}
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "root"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "keep"), nil, 0o644))
	if err := applyDiff(filepath.Join(dir, "root"), bytes.NewReader(nil), []string{"../keep"}); err == nil {
		t.Error("deleting outside of the root succeeds")
	}
	if _, err := os.Stat(filepath.Join(dir, "keep")); err != nil {
		t.Error(err)
	}
}

func TestUpperOf(t *testing.T) {
	const table = `36 35 0:30 / /run/c/1/rootfs rw,relatime - overlay overlay rw,lowerdir=/l/1:/l/2,upperdir=/u/a\040b,workdir=/w
37 35 0:31 / /run/c/2/rootfs rw shared:1 - tmpfs tmpfs rw
38 36 0:32 / /run/c/3/rootfs rw - overlay overlay rw,lowerdir=/l/1,upperdir=/u/3,workdir=/w
39 38 0:33 / /run/c/3/rootfs rw - tmpfs tmpfs rw
`
	for path, want := range map[string]string{"/run/c/1/rootfs": "/u/a b", "/run/c/2/rootfs": "", "/run/c/3/rootfs": "", "/run": ""} {
		if got := upperOf(table, path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestReason(t *testing.T) {
	out := "(00.1) Warn something\nError (a.c:1): vdso: no\n(00.2) Info\nError (b.c:2): init failed\n"
	if got := reason([]byte(out)); got != "Error (a.c:1): vdso: no; Error (b.c:2): init failed" {
		t.Error(got)
	}
}

// TestMatch changes one thing of a restore that fits at a time.
func TestMatch(t *testing.T) {
	config := func() runtimeservice.ContainerConfig {
		return runtimeservice.ContainerConfig{
			Metadata: runtimeservice.ContainerMetadata{Name: "app"}, Command: []string{"run"}, Env: []runtimeservice.EnvVar{{Name: "A", Value: "1"}},
		}
	}
	dump := podDump{Containers: []podDumpedUnit{{Name: "app", Config: config()}}}
	for field, edit := range map[string]func(*runtimeservice.SandboxRestore){
		"":                                   func(r *runtimeservice.SandboxRestore) { r.Containers[0].Labels = map[string]string{"new": "label"} },
		"runtime_handler":                    func(r *runtimeservice.SandboxRestore) { r.Config.Handler = "crun" },
		"container_configs: is empty":        func(r *runtimeservice.SandboxRestore) { r.Containers = nil },
		"container_configs[0].metadata.name": func(r *runtimeservice.SandboxRestore) { r.Containers[0].Metadata.Name = "other" },
		"container_configs[1].metadata.name": func(r *runtimeservice.SandboxRestore) { r.Containers = append(r.Containers, config()) },
		"container_configs[0].command":       func(r *runtimeservice.SandboxRestore) { r.Containers[0].Command = []string{"walk"} },
		"container_configs[0].args":          func(r *runtimeservice.SandboxRestore) { r.Containers[0].Args = []string{"x"} },
		"container_configs[0].envs":          func(r *runtimeservice.SandboxRestore) { r.Containers[0].Env[0].Value = "2" },
		"container_configs[0].working_dir":   func(r *runtimeservice.SandboxRestore) { r.Containers[0].WorkingDir = "/x" },
		"container_configs[0].tty":           func(r *runtimeservice.SandboxRestore) { r.Containers[0].TTY = true },
	} {
		r := runtimeservice.SandboxRestore{Containers: []runtimeservice.ContainerConfig{config()}}
		edit(&r)
		err := match(dump, r)
		if (err == nil) != (field == "") || (err != nil && (!errors.Is(err, runtimeservice.ErrInvalid) || !strings.Contains(err.Error(), field))) {
			t.Errorf("%q: %v", field, err)
		}
	}
	dump.Containers[0].Name = "../../etc"
	if err := match(dump, runtimeservice.SandboxRestore{}); !errors.Is(err, runtimeservice.ErrInvalid) {
		t.Errorf("a hostile name: %v", err)
	}
}

func TestUsableNamesTheRemedy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := Usable(context.Background()); !errors.Is(err, runtimeservice.ErrUnsupported) || !strings.Contains(err.Error(), "apt install criu") {
		t.Error(err)
	}
}
