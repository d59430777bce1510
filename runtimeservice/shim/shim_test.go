package shim

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "containerd-shim-test-v9")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for name, want := range map[string]string{"io.containerd.test.v9": path, "test.v9": path, "/opt/x": "/opt/x"} {
		if got, err := Find(name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"io.containerd.none.v7": "no containerd-shim-none-v7 is installed", "kata": "neither an absolute path nor a name", "a/b.v1": "neither",
	} {
		if _, err := Find(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseBootstrap(t *testing.T) {
	message, err := proto.Marshal(&bootstrap.BootstrapResult{Version: 3, Address: "unix:///x", Protocol: "ttrpc"})
	if err != nil {
		t.Fatal(err)
	}
	for out, want := range map[string]Bootstrap{
		string(message): {3, "unix:///x", "ttrpc"},
		`{"version":3,"address":"unix:///x","protocol":"grpc"}` + "\n": {3, "unix:///x", "grpc"},
		"unix:///run/containerd/s/0123\n":                              {2, "unix:///run/containerd/s/0123", "ttrpc"},
	} {
		if got, err := parseBootstrap([]byte(out)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", out, got, err)
		}
	}
	for _, out := range []string{"", "\n", `{"version":1}`, "{", "two\nlines"} {
		if got, err := parseBootstrap([]byte(out)); err == nil {
			t.Errorf("%q: %+v", out, got)
		}
	}
}

func FuzzParseBootstrap(f *testing.F) {
	f.Add([]byte("unix:///x"))
	f.Fuzz(func(t *testing.T, out []byte) {
		if b, err := parseBootstrap(out); err == nil && b.Address == "" {
			t.Errorf("%q: no address, no error", out)
		}
	})
}

func TestConnectRefuses(t *testing.T) {
	for want, b := range map[string]Bootstrap{
		"only ttrpc":           {3, "unix:///x", "grpc"},
		"version 4":            {4, "unix:///x", "ttrpc"},
		"not a unix socket":    {3, "vsock://3:1", "ttrpc"},
		"connect to the shim:": {3, "unix:///no/such", "ttrpc"},
	} {
		if _, err := connect(t.Context(), b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", b, err, want)
		}
	}
}

func TestSandboxOf(t *testing.T) {
	for name, tc := range map[string]struct {
		annotations map[string]string
		want        string
	}{
		"container": {map[string]string{annotationType: "container", annotationSandbox: "box"}, "box"},
		"sandbox":   {map[string]string{annotationType: "sandbox", annotationSandbox: "id"}, ""},
		"none":      {nil, ""},
	} {
		if got := sandboxOf("id", &specs.Spec{Annotations: tc.annotations}); got != tc.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestRealNamespaces(t *testing.T) {
	root := t.TempDir()
	for id, s := range map[string]state{"a": {Monitor: 70, Pid: 170}, "b": {Monitor: 80, Pid: 180}} {
		s.ID, s.dir = id, filepath.Join(root, id)
		if err := os.Mkdir(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := s.save(); err != nil {
			t.Fatal(err)
		}
	}
	spec := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
		{Type: "pid", Path: "/proc/80/ns/pid"}, {Type: "network", Path: "/run/ns/x"}, {Type: "ipc", Path: "/proc/90/ns/ipc"}, {Type: "mount"},
	}}}
	if err := realNamespaces(root, spec); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, ns := range spec.Linux.Namespaces {
		got = append(got, ns.Path)
	}
	if want := []string{"/proc/180/ns/pid", "/run/ns/x", "/proc/90/ns/ipc", ""}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	if _, err := loadState(root, "c"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Error(err)
	}
}

func TestNotFound(t *testing.T) {
	if !notFound(unwrapped(codes.NotFound)) || notFound(unwrapped(codes.Internal)) || notFound(nil) {
		t.Error("wrong")
	}
}

func unwrapped(c codes.Code) error {
	return &wrapped{status.Error(c, "x")}
}

type wrapped struct{ err error }

func (w *wrapped) Error() string { return "kill: " + w.err.Error() }
func (w *wrapped) Unwrap() error { return w.err }

func TestErrorsGoToTheLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for _, args := range [][]string{
		{"--log", log, "--shim", "io.containerd.none.v7", "--root", t.TempDir(), "create", "--bundle", "/x", "--pid-file", "/x/pid", "id"},
		{"--log", log, "--root", t.TempDir(), "start", "id"},
		{"--log", log, "fly"},
		{"--log", log, "kill", "id"},
	} {
		if Main(args) == 0 {
			t.Errorf("%q succeeded", args)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil || entry.Level != "error" || entry.Msg == "" {
			t.Errorf("%q: %s", args, text)
		}
	}
	if Main([]string{"--root", t.TempDir(), "delete", "--force", "gone"}) != 0 {
		t.Error("deleting what is gone failed")
	}
}
