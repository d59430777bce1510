// Package histories runs the most important histories of kubelet/pod/testdata for real: the same scripts that hold the
// pure rules to upstream's behaviour, with a real kubelet, a real runtime, real processes, and real time.
//
// All histories run side by side on one node of a simulated host. Each pod's containers run a program that does only what
// it is told (test/images/probe, "obey"), so "exit a 1" makes it exit, and "probe a readiness fail" lets the probe fail.
// Between kubelet and runtime stands a relay. It sees each call that does something, and holds the calls whose end the
// script tells ("sandbox ready", "run a", "reap"), so kubelet and script go in step. What the script says that is planned
// has to be what is called, in the same order, with the same restart counts and grace periods, and nothing else may be
// called; what it says of the status has to become the status in the API.
package histories

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// testdata has the scripts.
const testdata = "../../../kubelet/pod/testdata"

// important are the histories that run for real.
var important = []string{
	"crash-loop",
	"crash-loop-sidecar",
	"crash-loop-then-succeeds",
	"init-in-order",
	"init-fails-always",
	"init-fails-never",
	"init-fails-beside-sidecar",
	"init-sidecar-init",
	"init-waits-for-sidecar",
	"init-oom",
	"oom-killed",
	"never-succeeds",
	"never-one-fails",
	"on-failure-retries",
	"on-failure-two",
	"always-succeeds",
	"container-policy-never",
	"container-policy-on-failure",
	"container-rule-restarts",
	"init-rule-restarts",
	"sidecars-start",
	"sidecar-startup-probe",
	"sidecar-restarts",
	"sidecar-ends-with-main",
	"sidecar-liveness",
	"termination-order",
	"termination-order-late",
	"sidecar-dies-in-termination",
	"ephemeral-added",
	"ephemeral-fails",
	"prestop",
	"prestop-hangs",
	"prestop-cut-by-second-delete",
	"prestop-sidecar-at-once",
	"poststart-fails",
	"poststart-hides",
	"probes-all-of-one",
	"readiness-flips",
	"readiness-after-startup",
	"liveness-fails",
	"liveness-exits-zero",
	"liveness-fails-never",
	"startup-fails",
	"readiness-in-termination",
	"grace-shortened",
	"grace-not-lengthened",
	"delete-in-init",
	"delete-in-backoff",
	"delete-while-starting",
	"image-changed",
	"config-error-cured",
	"pull-fails",
	"pull-never-present",
	"image-name-invalid",
	"volumes-fail-cured",
	"sandbox-dies-on-failure",
	"sandbox-dies-in-init",
	"exit-message",
	"rejected",
	"restart-all-in-place",
	"readiness-gate-opens",
	"resize-up",
	"resize-restart",
	"static-crash-loop",
	"static-deleted",
	"evicted-full-volume",
	"static-restarts",
	"host-network",
	"run-fails-exited",
	"condition-messages",
}

// restarting are those among them in which the kubelet is killed and started again. They run together, after the others.
var restarting = []string{
	"kubelet-restart-running",
	"kubelet-restart-in-init",
	"kubelet-restart-deleting",
	"kubelet-restart-exit-unseen",
	"kubelet-restart-sidecars",
	"restart-all-kubelet-restart",
	"static-kubelet-restart",
	"ephemeral-kubelet-restart",
	"rejected-twice",
	"deadline-in-init",
	"kubelet-restart-stopping",
}

// TestListed: every history that is to run for real is there.
func TestListed(t *testing.T) {
	all := slices.Concat(important, restarting)
	if len(all) < 40 {
		t.Errorf("%d histories, want 40 at least", len(all))
	}
	for i, name := range all {
		if _, err := os.Stat(filepath.Join(testdata, name+".txtar")); err != nil {
			t.Error(err)
		}
		if slices.Contains(all[:i], name) {
			t.Errorf("%s is listed twice", name)
		}
	}
}
