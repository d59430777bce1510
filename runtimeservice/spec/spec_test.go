package spec

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

var update = flag.Bool("update", false, "write the golden files anew")

// input is an ordinary container of an ordinary pod.
func input() Input {
	return Input{
		ID: "c0ffee",
		Config: runtimeservice.ContainerConfig{
			Metadata: runtimeservice.ContainerMetadata{Name: "app"},
			Security: runtimeservice.ContainerSecurity{Namespaces: runtimeservice.Namespaces{
				Network: runtimeservice.NamespacePod, PID: runtimeservice.NamespaceContainer, IPC: runtimeservice.NamespacePod,
			}},
		},
		Sandbox: runtimeservice.SandboxConfig{
			Metadata: runtimeservice.SandboxMetadata{Name: "web", Namespace: "shop", UID: "u"}, Hostname: "web",
		},
		Image:  imageservice.Config{Entrypoint: []string{"/app"}, Cmd: []string{"serve"}, Env: []string{"A=image", "PATH=/bin"}},
		Host:   Host{Capabilities: CapabilityNames, NoFile: 1024, Seccomp: true},
		Rootfs: "/run/rootfs", Cgroup: "/pods/web/c0ffee",
		Joins: Joins{Network: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Files: Files{ResolvConf: "/box/resolv.conf", Hostname: "/box/hostname", Hosts: "/box/hosts", Shm: "/box/shm"},
	}
}

// TestGolden compares whole specifications with testdata; -update writes them.
func TestGolden(t *testing.T) {
	for name, edit := range map[string]func(*Input){
		"plain":      func(*Input) {},
		"privileged": func(in *Input) { in.Config.Security.Privileged = true },
		"cgroup-v2": func(in *Input) {
			in.Host.CgroupV2, in.Config.Resources.Unified = true, map[string]string{"memory.high": "1"}
		},
		"full": func(in *Input) {
			in.User = runtimeservice.User{UID: 1000, GID: 1000, Groups: []int64{1000, 77}}
			in.Config.TTY = true
			in.Config.Args, in.Config.WorkingDir = []string{"other"}, "/work"
			in.Config.Env = []runtimeservice.EnvVar{{Name: "A", Value: "request"}, {Name: "B", Value: "b"}}
			in.Config.Resources = runtimeservice.Resources{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, MemoryLimit: 1 << 20, OOMScoreAdj: 100}
			in.Config.Security.ReadonlyRootfs, in.Config.Security.NoNewPrivs = true, true
			in.Config.Security.MaskedPaths, in.Config.Security.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
			in.Volumes = []Volume{
				{Mount: runtimeservice.Mount{ContainerPath: "/data/deep", RecursiveReadonly: true, Readonly: true}, Source: "/v/deep"},
				{Mount: runtimeservice.Mount{ContainerPath: "/data", Propagation: runtimeservice.PropagationHostToContainer}, Source: "/v/data"},
				{Mount: runtimeservice.Mount{ContainerPath: "/etc/hosts", Readonly: true}, Source: "/v/hosts"},
			}
			in.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			in.Config.Devices = []runtimeservice.Device{{ContainerPath: "/dev/fuse", HostPath: "/dev/fuse", Permissions: "rw"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := input()
			edit(&in)
			s, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(s, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, edit := range map[string]func(*Input){
		"no command":         func(in *Input) { in.Image.Entrypoint, in.Image.Cmd = nil, nil },
		"unknown capability": func(in *Input) { in.Config.Security.Capabilities.Add = []string{"FLY"} },
		"unified on v1":      func(in *Input) { in.Config.Resources.Unified = map[string]string{"a": "b"} },
		"huge pages without": func(in *Input) {
			in.Config.Resources.Hugepages = []runtimeservice.HugepageLimit{{PageSize: "2MB", Limit: 1}}
		},
		"no pod PID": func(in *Input) { in.Config.Security.Namespaces.PID = runtimeservice.NamespacePod },
		"torn seccomp": func(in *Input) {
			in.Config.Security.Seccomp = &runtimeservice.Profile{Type: runtimeservice.ProfileLocalhost}
		},
		"AppArmor by name": func(in *Input) {
			in.Config.Security.AppArmor = &runtimeservice.Profile{Type: runtimeservice.ProfileLocalhost, Ref: "x"}
		},
		"seccomp, old kernel": func(in *Input) {
			in.Host.Seccomp = false
			in.Config.Security.Seccomp = &runtimeservice.Profile{Type: runtimeservice.ProfileRuntimeDefault}
		},
	} {
		in := input()
		edit(&in)
		if _, err := Build(in); !errors.Is(err, runtimeservice.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestArgv(t *testing.T) {
	for _, tc := range []struct{ entrypoint, cmd, command, args, want string }{
		{"e", "c", "", "", "e c"}, {"e", "c", "", "a", "e a"}, {"e", "c", "x", "", "x"}, {"e", "c", "x", "a", "x a"}, {"", "c", "", "", "c"},
	} {
		in := Input{}
		in.Image.Entrypoint, in.Image.Cmd = strings.Fields(tc.entrypoint), strings.Fields(tc.cmd)
		in.Config.Command, in.Config.Args = strings.Fields(tc.command), strings.Fields(tc.args)
		if got := strings.Join(Argv(in), " "); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

func TestCapabilities(t *testing.T) {
	few := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"}
	for _, tc := range []struct {
		host                    []string
		add, drop, ambient      string
		bounding, ambientResult string
	}{
		{few, "", "", "", "CAP_CHOWN CAP_KILL", ""},
		{few, "NET_ADMIN", "KILL", "", "CAP_CHOWN CAP_NET_ADMIN", ""},
		{few, "ALL", "", "", "CAP_CHOWN CAP_KILL CAP_NET_ADMIN", ""},
		{few, "ALL", "cap_kill", "", "CAP_CHOWN CAP_NET_ADMIN", ""},
		{few, "KILL", "ALL", "", "CAP_KILL", ""},
		{few, "", "ALL", "NET_ADMIN", "CAP_NET_ADMIN", "CAP_NET_ADMIN"},
		{few, "SYS_TIME", "", "SYS_TIME", "CAP_CHOWN CAP_KILL", ""},
	} {
		in := input()
		in.Host.Capabilities = tc.host
		in.Config.Security.Capabilities = runtimeservice.Capabilities{
			Add: strings.Fields(tc.add), Drop: strings.Fields(tc.drop), AddAmbient: strings.Fields(tc.ambient),
		}
		s, err := Build(in)
		if err != nil {
			t.Fatal(err)
		}
		c := s.Process.Capabilities
		if got := strings.Join(c.Bounding, " "); got != tc.bounding || strings.Join(c.Ambient, " ") != tc.ambientResult {
			t.Errorf("%+v: %s, ambient %v", tc, got, c.Ambient)
		}
		if slices.Contains(c.Effective, "CAP_SYS_TIME") {
			t.Error("more than the host has")
		}
	}
}

func TestResolveUser(t *testing.T) {
	files := map[string]string{
		"/etc/passwd": "root:x:0:0::/:/bin/sh\nann:x:1000:1001::/:/bin/sh\n",
		"/etc/group":  "crew:x:50:ann\nstaff:x:51:ann,root\n",
	}
	open := func(path string) (io.ReadCloser, error) {
		if text, ok := files[path]; ok {
			return io.NopCloser(strings.NewReader(text)), nil
		}
		return nil, fs.ErrNotExist
	}
	id := func(n int64) *int64 { return &n }
	for name, tc := range map[string]struct {
		security runtimeservice.ContainerSecurity
		image    string
		want     string // "uid gid groups…", or "" for an error
	}{
		"nothing said":       {runtimeservice.ContainerSecurity{}, "", "0 0 0 51"},
		"image's name":       {runtimeservice.ContainerSecurity{}, "ann", "1000 1001 1001 50 51"},
		"image's name:group": {runtimeservice.ContainerSecurity{}, "ann:crew", "1000 50 50 51"},
		"request's uid":      {runtimeservice.ContainerSecurity{RunAsUser: id(1000)}, "root", "1000 1001 1001 50 51"},
		"unknown uid":        {runtimeservice.ContainerSecurity{RunAsUser: id(7)}, "", "7 0 0"},
		"uid and gid":        {runtimeservice.ContainerSecurity{RunAsUser: id(1000), RunAsGroup: id(9)}, "", "1000 9 9 50 51"},
		"name":               {runtimeservice.ContainerSecurity{RunAsUsername: "ann"}, "", "1000 1001 1001 50 51"},
		"unknown name":       {runtimeservice.ContainerSecurity{RunAsUsername: "bob"}, "", ""},
		"supplemental":       {runtimeservice.ContainerSecurity{RunAsUser: id(1000), SupplementalGroups: []int64{99, 50}}, "", "1000 1001 1001 50 51 99"},
		"strict":             {runtimeservice.ContainerSecurity{RunAsUser: id(1000), SupplementalGroups: []int64{99}, GroupsPolicy: runtimeservice.GroupsStrict}, "", "1000 1001 1001 99"},
	} {
		u, err := ResolveUser(tc.security, tc.image, open)
		got := ""
		if err == nil {
			got = strings.Trim(strings.Join(strings.Fields(strings.NewReplacer("[", "", "]", "", "{", "", "}", "").Replace(jsonish(u))), " "), " ")
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q (%v)", name, got, tc.want, err)
		}
	}
	none := func(string) (io.ReadCloser, error) { return nil, fs.ErrNotExist }
	if u, err := ResolveUser(runtimeservice.ContainerSecurity{RunAsUser: id(5)}, "", none); err != nil || u.UID != 5 {
		t.Errorf("an image without account files: %v, %v", u, err)
	}
}

func jsonish(u runtimeservice.User) string {
	text, _ := json.Marshal([]any{u.UID, u.GID, u.Groups})
	return strings.ReplaceAll(string(text), ",", " ")
}

func TestSignals(t *testing.T) {
	for name, want := range map[string]int{
		"SIGTERM": 15, "term": 15, "9": 9, "SIGRTMIN+3": 37, "RTMAX-1": 63, "SIGRTMIN": 34, "": 0, "SIGNONE": -1, "SIGRTMIN+99": -1, "-3": -1, "700": -1,
	} {
		got, err := Signal(name)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, %v", name, got, err)
		}
	}
	for n := 1; n <= rtMax; n++ {
		if n == 32 || n == 33 {
			continue // libc's own
		}
		if back, err := Signal(SignalName(n)); err != nil || back != n {
			t.Errorf("%d → %q → %d, %v", n, SignalName(n), back, err)
		}
	}
}

func TestOOMScoreIsClamped(t *testing.T) {
	h := Host{OOMScoreAdj: -10}
	if h.ClampOOMScore(-997) != -10 || h.ClampOOMScore(500) != 500 {
		t.Error("without CAP_SYS_RESOURCE")
	}
	h.Capabilities = []string{"CAP_SYS_RESOURCE"}
	if h.ClampOOMScore(-997) != -997 {
		t.Error("with CAP_SYS_RESOURCE")
	}
}

func TestMountOf(t *testing.T) {
	const table = `20 1 8:1 / / rw - ext4 /dev/sda rw
21 20 0:5 / /var rw shared:1 - tmpfs t rw
22 21 0:6 / /var/lib rw master:2 - tmpfs t rw
23 21 0:7 / /var/library rw shared:3 master:4 - tmpfs t rw
`
	for path, want := range map[string]string{
		"/x": "/ ", "/var": "/var shared:1 ", "/var/lib/a": "/var/lib master:2 ", "/var/library": "/var/library shared:3 master:4 ", "/various": "/ ",
	} {
		point, optional := mountOf(table, path)
		if got := point + " " + optional; got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestParseCapabilities(t *testing.T) {
	got, err := parseCapabilities("Name:\tx\nCapPrm:\t0000000000000021\n")
	if err != nil || strings.Join(got, " ") != "CAP_CHOWN CAP_KILL" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseCapabilities("Name:\tx\n"); err == nil {
		t.Error("no line, no error")
	}
}
