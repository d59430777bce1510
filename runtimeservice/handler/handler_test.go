package handler

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// script is a runtime that answers by a shell script.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   Features
	}{
		"of today": {`[ "$1 $2" = "-x features" ] && echo '{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.1+dev","mountOptions":["ro","rro"],
			"linux":{"namespaces":["user"],"mountExtensions":{"idmap":{"enabled":true}}}}'`,
			Features{OCIVersion: "1.2.1", RecursiveReadOnly: true, UserNamespaces: true}},
		"without idmap": {`echo '{"ociVersionMax":"1.1.0","mountOptions":["ro"],"linux":{"namespaces":["user"]}}'`, Features{OCIVersion: "1.1.0"}},
		"old":           {`[ "$1" = --version ] || exit 1; printf 'crun version 1.8.1\nspec: 1.0.0\n+CAP\n'`, Features{OCIVersion: "1.0.0"}},
		"mute":          {`[ "$1" = --version ] || exit 1; echo release-20260101`, Features{}},
	} {
		if got, err := Probe(t.Context(), script(t, tc.script), []string{"-x"}); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, broken := range []string{"exit 1", "echo '{'"} {
		if got, err := Probe(t.Context(), script(t, broken), nil); err == nil {
			t.Errorf("%s: %+v", broken, got)
		}
	}
}

func TestFind(t *testing.T) {
	set, err := New(context.Background(), map[string]Config{"crun": {Path: "/no/such/crun"}, "kata": {Path: "/no/such/kata"}}, "/bin/skiff-shim", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"": "", "runc": "", "crun": "/no/such/crun"} {
		if h, err := set.Find(name); err != nil || h.Path != want || h.Runtime().Path != want {
			t.Errorf("%q: %+v, %v", name, h, err)
		}
	}
	_, err = set.Find("runsc")
	if !errors.Is(err, runtimeservice.ErrInvalid) || !strings.Contains(err.Error(), "there are crun, kata, runc") {
		t.Error(err)
	}
	got := set.Describe(Features{RecursiveReadOnly: true, UserNamespaces: true})
	want := []runtimeservice.Handler{
		{Name: "", RecursiveReadOnlyMounts: true, UserNamespaces: true}, {Name: "crun"}, {Name: "kata"},
		{Name: "runc", RecursiveReadOnlyMounts: true, UserNamespaces: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if set.Describe(Features{})[0].RecursiveReadOnlyMounts {
		t.Error("a feature that the kernel lacks is promised")
	}
}

func TestShim(t *testing.T) {
	driver := script(t, `[ "$1 $2 $3 $4 $5" = "--shim io.containerd.kata.v2 --shim-config /kata.toml features" ] && echo '{"ociVersionMax":"1.0.2"}'`)
	set, err := New(t.Context(), map[string]Config{"kata": {Type: Shim, Path: "io.containerd.kata.v2", ShimConfig: "/kata.toml"}}, driver, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	h := set["kata"]
	want := keeper.Runtime{Handler: "kata", Path: driver, Args: []string{"--shim", "io.containerd.kata.v2", "--shim-config", "/kata.toml"}, Monitor: true}
	if got := h.Runtime(); !reflect.DeepEqual(got, want) || h.Features.OCIVersion != "1.0.2" || !h.NeedsSandbox() || set[Default].NeedsSandbox() {
		t.Errorf("%+v, %+v", got, h.Features)
	}
}

func TestWrongConfig(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.json")
	if err := os.WriteFile(bad, []byte(`{"mounts": 7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		handler string
		config  Config
		want    string
	}{
		"no path":        {"x", Config{}, "path is missing"},
		"relative":       {"x", Config{Path: "crun"}, "not an absolute path"},
		"relative root":  {"x", Config{Path: "/crun", Root: "x"}, "root"},
		"name":           {"../x", Config{Path: "/crun"}, "not possible"},
		"pattern":        {"x", Config{Path: "/crun", PodAnnotations: []string{"["}}, "pod_annotations"},
		"no base":        {"x", Config{Path: "/crun", BaseSpec: "/no/such"}, "base_spec"},
		"type":           {"x", Config{Type: "vm", Path: "/crun"}, "type"},
		"shim args":      {"x", Config{Type: Shim, Path: "io.containerd.kata.v2", Args: []string{"x"}}, "takes no args"},
		"not a shim":     {"x", Config{Path: "/crun", ShimConfig: "/x"}, "shim_config"},
		"no such option": {"x", Config{Path: "/crun", SnapshotOptions: []string{"xino=on", "lowerdir=/"}}, `snapshot_options: "lowerdir=/"`},
		"no such value":  {"x", Config{Path: "/crun", SnapshotOptions: []string{"xino=maybe"}}, "xino=on|off|auto"},
		"wrong base":     {"runc", Config{BaseSpec: bad}, "base_spec"},
	} {
		_, err := New(context.Background(), map[string]Config{tc.handler: tc.config}, "/bin/skiff-shim", slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.handler) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAdjust(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base.json")
	text := `{
	"ociVersion": "1.0.0", "hostname": "base",
	"process": {"cwd": "/base", "env": ["A=base", "B=base"], "rlimits": [{"type": "RLIMIT_CORE", "soft": 18446744073709551615, "hard": 18446744073709551615}]},
	"mounts": [{"destination": "/lib/modules", "source": "/lib/modules", "type": "bind"}, {"destination": "/proc", "type": "base"}],
	"hooks": {"createRuntime": [{"path": "/hook"}]},
	"annotations": {"from": "base"},
	"linux": {"resources": {"devices": [{"allow": true, "type": "c"}], "pids": {"limit": 9}}, "namespaces": [{"type": "mount"}, {"type": "time"}], "maskedPaths": ["/base"]}
}`
	if err := os.WriteFile(base, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := New(context.Background(), map[string]Config{"runc": {
		BaseSpec: base, PodAnnotations: []string{"pod.io/*"}, ContainerAnnotations: []string{"own"},
	}}, "/bin/skiff-shim", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	memory := int64(9223372036854771712)
	h := set["runc"]
	h.Features.OCIVersion = "1.0.2"
	got, err := h.Adjust(&specs.Spec{
		Version: "1.3.0", Annotations: map[string]string{},
		Process: &specs.Process{Cwd: "/", Env: []string{"B=ours"}, Args: []string{"x"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc"}},
		Linux: &specs.Linux{
			Resources:   &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
			Namespaces:  []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}},
			MaskedPaths: []string{"/ours"},
		},
	}, runtimeservice.Sandbox{ID: "box", Config: runtimeservice.SandboxConfig{Annotations: map[string]string{"pod.io/a": "1", "pod.io/a/b": "2", "other": "3"}}}, map[string]string{"own": "4", "pod.io/c": "5"})
	if err != nil {
		t.Fatal(err)
	}
	limit := int64(9)
	want := &specs.Spec{
		Version: "1.0.2", Hostname: "base", Annotations: map[string]string{"from": "base", annotationSandbox: "box", "pod.io/a": "1", "own": "4"},
		Process: &specs.Process{Cwd: "/", Env: []string{"A=base", "B=ours"}, Args: []string{"x"}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1<<64 - 1, Hard: 1<<64 - 1}}},
		Mounts:  []specs.Mount{{Destination: "/lib/modules", Source: "/lib/modules", Type: "bind"}, {Destination: "/proc", Type: "proc"}},
		Hooks:   &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/hook"}}},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &limit},
				Devices: []specs.LinuxDeviceCgroup{{Allow: true, Type: "c"}, {Access: "rwm"}},
			},
			Namespaces:  []specs.LinuxNamespace{{Type: "time"}, {Type: "mount"}, {Type: "pid"}},
			MaskedPaths: []string{"/base", "/ours"},
		},
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

func TestCompareVersions(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{{"1.0.0", "1.3.0", -1}, {"1.3.0", "1.3.0", 0}, {"1.10.0", "1.9.9", 1}, {"1.0.2-dev", "1.0.2", 0}} {
		if got := compareVersions(tc.a, tc.b); got != tc.want {
			t.Errorf("%s %s: %d", tc.a, tc.b, got)
		}
	}
}
