package filter

import "github.com/skiff-node/skiff/controlplane/scheduler/snapshot"

// devices refuses nodes from which the devices of the pod's resource claims cannot be reached, or that have none free.
func devices(p *snapshot.Pod, w World) (judge, *Refusal) {
	if w.Devices == nil {
		return nil, nil
	}
	why, err := w.Devices.Prepare(p.Object)
	if err != nil {
		return nil, refusef(DevicesChanged, "%v", err)
	}
	if why == nil {
		return nil, nil
	}
	return func(n *snapshot.Node) Verdict {
		if reason := why(n.Object); reason != "" {
			return refuseForGood(NodeAdded|NodeChanged|DevicesChanged, reason)
		}
		return Verdict{}
	}, nil
}
