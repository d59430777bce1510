package pod

import v1 "k8s.io/api/core/v1"

// Messages of the condition PodReadyToStartContainers when it is false, as upstream words them.
const (
	noSandbox        = "no pod sandbox exists"
	manySandboxes    = "multiple pod sandboxes are ready and need to be reconciled"
	sandboxNotReady  = "pod sandbox is not ready"
	sandboxOtherNet  = "network namespace mode changed and sandbox needs to be recreated"
	sandboxWithoutIP = "pod sandbox has no IP address"
)

// NeedsSandbox tells whether the pod needs a (new) sandbox, with which attempt number, and why. An empty reason means that
// the newest sandbox serves.
func NeedsSandbox(p *v1.Pod, o *Observed) (attempt uint32, reason string) {
	if len(o.Sandboxes) == 0 {
		return 0, noSandbox
	}
	ready := 0
	for _, s := range o.Sandboxes {
		if s.Ready {
			ready++
		}
	}
	last := o.Sandboxes[0]
	switch {
	case ready > 1:
		return last.Attempt + 1, manySandboxes
	case !last.Ready:
		return last.Attempt + 1, sandboxNotReady
	case last.HostNetwork != p.Spec.HostNetwork:
		return last.Attempt + 1, sandboxOtherNet
	case !p.Spec.HostNetwork && len(last.IPs) == 0:
		return last.Attempt + 1, sandboxWithoutIP
	}
	return last.Attempt, ""
}
