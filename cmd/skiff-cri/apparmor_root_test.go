//go:build root

package main

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice/apparmor"
)

func TestAppArmor(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("apparmor")
	box := h.runSandbox(config)
	named := containerConfig("named", "sleep 1000")
	named.Linux.SecurityContext.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "no-such-profile"}
	if err := h.createError(box, named, config); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "no-such-profile") {
		t.Errorf("a profile that is not loaded: %v", err)
	}
	if !apparmor.Enabled() {
		t.Skip("the kernel has no AppArmor")
	}
	if loaded, err := apparmor.Loaded(apparmor.Default); err != nil || !loaded {
		t.Skipf("the default profile is not loaded, as apparmor_parser is missing: %v", err)
	}
	id := h.start(box, containerConfig("default", "sleep 1000"), config)
	h.expect(id, "cat /proc/self/attr/current", apparmor.Default+" (enforce)")
	free := containerConfig("free", "sleep 1000")
	free.Linux.SecurityContext.Apparmor = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined}
	h.expect(h.start(box, free, config), "cat /proc/self/attr/current", "unconfined")
	h.remove(box)
	h.nothingLeft()
}
