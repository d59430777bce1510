package spec

import (
	"testing"

	"github.com/skiff-node/skiff/runtimeservice"
)

func TestAppArmorProfile(t *testing.T) {
	with, without := Host{AppArmor: true, AppArmorDefault: "d"}, Host{}
	local := &runtimeservice.Profile{Type: runtimeservice.ProfileLocalhost, Ref: "mine"}
	own := &runtimeservice.Profile{Type: runtimeservice.ProfileRuntimeDefault}
	free := &runtimeservice.Profile{Type: runtimeservice.ProfileUnconfined}
	for _, tc := range []struct {
		name       string
		profile    *runtimeservice.Profile
		privileged bool
		host       Host
		want       string
		ok         bool
	}{
		{"nothing said", nil, false, with, "d", true},
		{"the runtime's", own, false, with, "d", true},
		{"unconfined", free, false, with, "", true},
		{"by name", local, false, with, "mine", true},
		{"by name, privileged", local, true, with, "mine", true},
		{"privileged", nil, true, with, "", true},
		{"nothing said, no AppArmor", nil, false, without, "", true},
		{"the runtime's, no AppArmor", own, false, without, "", true},
		{"by name, no AppArmor", local, false, without, "", false},
	} {
		got, err := apparmorProfile(runtimeservice.ContainerSecurity{AppArmor: tc.profile, Privileged: tc.privileged}, tc.host)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
}

func TestSELinuxLabels(t *testing.T) {
	on := Host{SELinux: true}
	type security = runtimeservice.ContainerSecurity
	pod := &runtimeservice.SELinux{Level: "s0:c1,c2"}
	own := &runtimeservice.SELinux{Type: "spc_t"}
	for _, tc := range []struct {
		name           string
		pod            *runtimeservice.SELinux
		own            security
		host           Host
		process, files string
	}{
		{"nothing said", nil, security{}, on, "", ""},
		{"no SELinux", pod, security{SELinux: own}, Host{}, "", ""},
		{"privileged", pod, security{Privileged: true}, on, "", ""},
		{"the pod's level", pod, security{}, on, "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
		{"own type", nil, security{SELinux: own}, on, "system_u:system_r:spc_t:s0", "system_u:object_r:container_file_t:s0"},
		{"both", pod, security{SELinux: own}, on, "system_u:system_r:spc_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"},
	} {
		if process, files := SELinuxLabels(tc.pod, tc.own, tc.host); process != tc.process || files != tc.files {
			t.Errorf("%s: %s, %s", tc.name, process, files)
		}
	}
}
