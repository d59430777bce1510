package oci

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

func TestOOMScoreIsClamped(t *testing.T) {
	for _, tc := range []struct {
		privileged bool
		own        int
		want       *int
		got        int
	}{
		{false, 0, ptr(-997), 0},
		{false, 0, ptr(1000), 1000},
		{false, 300, ptr(0), 300},
		{true, 0, ptr(-997), -997},
		{true, -999, nil, 0}, // a container never inherits the keeper's protection
		{false, 200, nil, 200},
	} {
		l := limits{privileged: tc.privileged, oomScore: tc.own}
		if got := *l.oom(tc.want); got != tc.got {
			t.Errorf("%+v: got %d", tc, got)
		}
	}
}

func TestRlimitsAreClamped(t *testing.T) {
	hard := map[string]uint64{"RLIMIT_NOFILE": 20000, "RLIMIT_CORE": 100}
	for name, tc := range map[string]struct {
		privileged bool
		in, want   []specs.POSIXRlimit
	}{
		"nofile is always explicit": {false, nil, []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 20000, Hard: 20000}}},
		"clamped": {false,
			[]specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 1 << 20}, {Type: "RLIMIT_CORE", Soft: 1000, Hard: 1000}},
			[]specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 20000}, {Type: "RLIMIT_CORE", Soft: 100, Hard: 100}}},
		"privileged": {true,
			[]specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 1 << 20}},
			[]specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: 1 << 20}}},
	} {
		p := &specs.Process{Rlimits: tc.in}
		limits{privileged: tc.privileged, hard: hard}.applyRlimits(p)
		if !reflect.DeepEqual(p.Rlimits, tc.want) {
			t.Errorf("%s: got %v, want %v", name, p.Rlimits, tc.want)
		}
	}
}

func TestMergeLeavesTheRest(t *testing.T) {
	have := cgroups.Resources{Memory: 100, MemorySwap: 200, CpuQuota: 5, CpuPeriod: 10, CpusetCpus: "0", PidsLimit: ptr[int64](7)}
	merge(&have, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](150)},
		CPU:    &specs.LinuxCPU{Quota: ptr[int64](6), Shares: ptr[uint64](1024)},
	})
	want := cgroups.Resources{
		Memory: 150, MemorySwap: 200, CpuQuota: 6, CpuPeriod: 10, CpusetCpus: "0", PidsLimit: ptr[int64](7),
		CpuShares: 1024, CpuWeight: cgroups.ConvertCPUSharesToCgroupV2Value(1024), SkipDevices: true,
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("got  %+v\nwant %+v", have, want)
	}
	merge(&have, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](-1)}})
	if have.Memory != -1 || have.MemorySwap != 0 {
		t.Errorf("unlimited: memory %d, swap %d", have.Memory, have.MemorySwap)
	}
}

func TestOOMKills(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
	write("memory.events", "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n")
	for name, tc := range map[string]struct {
		dirs map[string]string
		want uint64
	}{
		"v1":           {map[string]string{"memory": dir, "": "/elsewhere"}, 3},
		"v2":           {map[string]string{"": dir}, 2},
		"no cgroup":    {nil, 0},
		"no memory v1": {map[string]string{"devices": dir}, 0},
	} {
		if got, err := OOMKills(tc.dirs); err != nil || got != tc.want {
			t.Errorf("%s: %d, %v, want %d", name, got, err, tc.want)
		}
	}
	if _, err := OOMKills(map[string]string{"": "/no/such"}); err == nil {
		t.Error("no error for a cgroup that is gone")
	}
}

func TestNewProcess(t *testing.T) {
	for name, p := range map[string]*specs.Process{
		"nil":     nil,
		"no args": {Cwd: "/"},
		"rlimit":  {Args: []string{"x"}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_LUNCH"}}},
	} {
		if _, err := newProcess(p); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	got, err := newProcess(&specs.Process{Args: []string{"x"}, User: specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}, ConsoleSize: &specs.Box{Width: 80, Height: 24}})
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != 5 || got.GID != 6 || got.AdditionalGroups[0] != 7 || got.ConsoleWidth != 80 || got.ConsoleHeight != 24 {
		t.Errorf("%+v", got)
	}
}

func TestCgroupPath(t *testing.T) {
	for path, want := range map[string]string{
		"/skiff/pods/x/y":                   "/skiff/pods/x/y",
		"kubepods-besteffort.slice:skiff:y": "/kubepods.slice/kubepods-besteffort.slice/skiff-y.scope",
		":skiff:y":                          "/system.slice/skiff-y.scope",
	} {
		if got := cgroupPath(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
