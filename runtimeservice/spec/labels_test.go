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
